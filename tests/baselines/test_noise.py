from __future__ import annotations

import numpy as np
import pytest
import torch
from support.kit import make_card, make_context, make_pencil, plain_pencil

from dfkd_baselines.noise import Noise, NoiseOptions
from dfkd_bench import Round


@pytest.fixture
def narrow():
    """A card whose noise is hardly ever cut off."""
    card = make_card().model_copy(update={"std": (0.05, 0.1, 0.02)})
    return make_context(card, make_pencil(card, seed=1), make_pencil(card, seed=2))


def test_noise_has_the_cards_mean_and_deviation_in_each_channel(narrow):
    batch = Noise(NoiseOptions(batch_size=200), narrow).synthesize(Round(0, warmup=True))
    batch.check((3, 8, 8), 3)
    assert len(batch) == 200
    assert batch.images.mean(dim=(0, 2, 3)).tolist() == pytest.approx([0.5, 0.4, 0.3], abs=0.005)
    assert batch.images.std(dim=(0, 2, 3)).tolist() == pytest.approx([0.05, 0.1, 0.02], rel=0.03)
    assert abs(float(torch.corrcoef(batch.images[:, :2].permute(1, 0, 2, 3).flatten(1))[0, 1])) < 0.05


def test_noises_targets_are_the_teachers_guesses(narrow):
    batch = Noise(NoiseOptions(batch_size=50), narrow).synthesize(Round(0, warmup=False))
    logits = plain_pencil(narrow.teacher, batch.images)[2]
    assert batch.targets.tolist() == logits.argmax(axis=1).tolist()


def test_what_leaves_the_range_is_cut_off(toy_context):
    batch = Noise(NoiseOptions(batch_size=50), toy_context).synthesize(Round(0, warmup=False))
    batch.check((3, 8, 8), 3)
    assert float(batch.images.min()) == 0.0 and float(batch.images.max()) == 1.0


def test_noise_hangs_on_the_stages_stream_and_differs_from_round_to_round():
    card = make_card()
    nets = make_pencil(card, seed=1), make_pencil(card, seed=2)
    first, again, other = (Noise(NoiseOptions(batch_size=4), make_context(card, *nets, seed)) for seed in (1, 1, 2))
    images = [made.synthesize(Round(0, warmup=False)).images for made in (first, again, other, first)]
    assert torch.equal(images[0], images[1])
    assert not np.allclose(images[0], images[2]) and not np.allclose(images[0], images[3])


def test_noise_needs_nothing_of_the_networks_and_brings_no_prior():
    assert Noise.requires_with(NoiseOptions()) == frozenset()
    assert Noise.prior_with(NoiseOptions()) == "none"
