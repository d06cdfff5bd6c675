from __future__ import annotations

import pytest
import torch
from support.kit import make_card, make_context, make_pencil, plain_log_softmax

from dfkd_bench import SyntheticBatch
from dfkd_bench.stages.plain import Distillation, DistillationOptions
from dfkd_dda.controls import CutMix, Identity, IdentityOptions, MixOptions, MixUp

CARD = make_card(channels=1, side=8)
# Image i is all i / 4 and of class i % 3.
IMAGES = (torch.arange(5) / 4).view(5, 1, 1, 1).expand(-1, 1, 8, 8)
BATCH = SyntheticBatch(IMAGES, torch.arange(5) % 3)


def context(seed: int = 0):
    return make_context(CARD, make_pencil(CARD, 1), make_pencil(CARD, 2), seed)


def test_identity_copies():
    made = Identity(IdentityOptions(variants=2), context()).augment(BATCH)
    assert made.source.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert torch.equal(made.images, IMAGES[made.source]) and torch.equal(made.targets, BATCH.targets[made.source])


@pytest.mark.parametrize("kind", [MixUp, CutMix])
def test_a_mixture_has_of_each_parent_what_its_label_says(kind):
    made = kind(MixOptions(variants=200, alpha=0.7), context()).augment(BATCH)
    made.check((1, 8, 8), 3, sourced=5)
    first, second = made.source.unbind(dim=1)
    assert torch.equal(first, torch.arange(5).repeat_interleave(200)) and set(second.tolist()) == set(range(5))
    # Of parents of two values the image's mean tells the first one's share.
    apart = made.source[:, 0] != made.source[:, 1]
    mean = made.images.mean(dim=(1, 2, 3))
    share = ((mean - second / 4) / ((first - second) / 4))[apart]
    assert float(share.min()) > -1e-4 and float(share.max()) < 1 + 1e-4
    differ = BATCH.targets[first] != BATCH.targets[second]
    of_first = made.soft.gather(1, BATCH.targets[first][:, None])[:, 0]
    assert torch.allclose(of_first[apart & differ], share[differ[apart]], atol=1e-4)
    assert torch.equal(of_first[~differ], torch.ones(int((~differ).sum())))
    assert torch.equal(made.targets, made.soft.argmax(dim=1))
    if kind is MixUp:  # a cut box loses some of it at the edges
        # The variance of Beta(0.7, 0.7) is 1 / (4 (2 * 0.7 + 1)).
        assert float(of_first[differ].var()) == pytest.approx(1 / 9.6, rel=0.1)


def test_cutmix_cuts_a_box():
    made = CutMix(MixOptions(variants=30), context()).augment(BATCH)
    first = made.source[:, 0]
    other = (made.images - IMAGES[first]).abs()[:, 0] > 1e-6
    rows, columns = other.any(dim=2).float(), other.any(dim=1).float()
    assert torch.equal(other.float(), rows[:, :, None] * columns[:, None, :])
    assert bool(((rows.diff(dim=1) != 0).sum(dim=1) <= 2).all()) and bool(other.any())


def test_kd_takes_soft_labels_in_the_targets_place():
    made = MixUp(MixOptions(), context()).augment(BATCH)
    given = context()
    loss = Distillation(DistillationOptions(target_weight=0.5), given).losses(given.student, given.teacher, made)
    logs = plain_log_softmax(given.student(made.images).detach().double().numpy())
    by_hand = -(made.soft.double().numpy() * logs).sum(axis=1).mean()
    assert float(loss["target"].detach()) == pytest.approx(0.5 * by_hand, rel=1e-4)
