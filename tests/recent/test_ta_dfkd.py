import math

import pytest
import torch
from support.method_kit import Fixed, bn_input, make_card, make_context, stream
from torch import nn

from dfkd_bench import SyntheticBatch, TrainTransform
from dfkd_bench.blocks.kd import released_js
from dfkd_bench.stages.base import Round
from dfkd_recent.ta_dfkd import (
    LenientExpert,
    LenientOptions,
    LenientSelection,
    SelectionOptions,
    competition,
    lenient,
)


def made(context=None, **options) -> LenientExpert:
    return LenientExpert(LenientOptions(**{"batch_size": 8, "latent_dim": 6, **options}), context or make_context())


def test_the_confident_group_is_selected():
    sure, unsure = torch.tensor([6.0, 0.0, 0.0]), torch.tensor([0.3, 0.0, 0.0])
    logits = torch.stack([sure + 0.1 * index if index % 2 else unsure for index in range(20)])
    assert lenient(logits, 0.5).tolist() == [bool(index % 2) for index in range(20)]


def test_a_higher_bound_selects_no_more_and_images_all_alike_stay():
    logits = 3 * torch.randn(60, 5, generator=stream())
    loose, strict = lenient(logits, 0.1), lenient(logits, 0.9)
    assert bool((loose | ~strict).all())
    assert 0 < int(strict.sum()) <= int(loose.sum()) < 60
    assert bool(lenient(torch.ones(4, 3), 0.5).all())


def test_the_competition_is_averaged_over_the_classes():
    student, teacher = (3 * torch.randn(4, 5, generator=stream(seed)) for seed in (1, 2))
    assert competition(student, teacher, "released").item() == pytest.approx(
        1 - released_js(student, teacher).item() / 5, rel=1e-6
    )
    # Disjoint and true: ln 2 over two classes.
    apart = torch.tensor([[300.0, 0.0]]), torch.tensor([[0.0, 300.0]])
    assert competition(*apart, "true").item() == pytest.approx(1 - math.log(2) / 2)


def test_the_generators_loss_by_hand():
    # Mean 3 and variance 4 where 0 and 1 are kept: 3 + 3. Student and teacher agree: J = 0, so adv counts once.
    told = Fixed([[1.0, 0.0]], batchnorm=[(nn.BatchNorm2d(1), bn_input(3.0, 2.0))])
    told.mean, told.std = torch.tensor(0.5), torch.tensor(0.25)
    context = make_context(make_card(classes=2), teacher=told, student=Fixed([[1.0, 0.0]]))
    one = made(context, bn=2.0, adv=5.0, l2=1.0, tv=1.0)
    flat = torch.full((2, 3, 8, 8), 0.75)  # normalized 1 everywhere, no variation: the norm is the root of 384
    assert one._loss(flat, flat).item() == pytest.approx(2 * 6 + 5 + math.sqrt(384), rel=1e-5)
    edge = torch.full((1, 1, 2, 2), 0.5)
    edge[..., 1] = 0.75  # normalized 0 and 1: rows differ by (1, 1), diagonals by 1 each, the norm is that of (1, 1)
    rough = made(context, bn=0.0, adv=0.0, l2=0.5, tv=1.0)._loss(edge, edge).item()
    assert rough == pytest.approx(math.sqrt(2) + 1 + 1 + 0.5 * math.sqrt(2), rel=1e-5)


def test_one_draw_crops_and_mirrors_the_whole_batch():
    card = make_card(transform=TrainTransform(padding=2, flip=True))
    one = made(make_context(card))
    image = torch.rand(1, 3, 8, 8, generator=stream())
    views = {tuple(one._view(image.expand(5, -1, -1, -1))[0].flatten().tolist()) for _ in range(10)}
    assert len(views) > 3
    batch = one._view(image.expand(5, -1, -1, -1))
    assert all(torch.equal(each, batch[0]) for each in batch)


def test_the_generator_is_the_published_one():
    generator = made().generator
    layers = [type(layer).__name__ for layer in generator.conv_blocks]
    assert layers[:3] == ["BatchNorm2d", "LeakyReLU", "Upsample"]
    assert [layer.eps for layer in generator.conv_blocks if isinstance(layer, nn.BatchNorm2d)] == [1e-5, 0.8, 0.8]


def test_statistics_and_competition_see_selected_images_alone():
    seen = []

    class Watching(LenientExpert):
        def _loss(self, images, chosen):
            seen.append((len(images), len(chosen)))
            return super()._loss(images, chosen)

    for select in ("mixture", "none"):
        options = LenientOptions(batch_size=40, latent_dim=6, select=select)
        Watching(options, make_context()).synthesize(Round(0, warmup=False))
    (all_images, chosen), everything = seen
    assert all_images == 40
    assert 0 < chosen < 40
    assert everything == (40, 40)


def test_the_filter_selects_by_the_teachers_confidence():
    logits = torch.stack([torch.tensor([6.0, 0.0]) if index % 2 else torch.tensor([0.2, 0.0]) for index in range(10)])
    context = make_context(make_card(classes=2), teacher=Fixed(logits))
    batch = SyntheticBatch(torch.rand(10, 3, 8, 8), torch.zeros(10, dtype=torch.int64))
    chosen = LenientSelection(SelectionOptions(), context).select(batch)
    assert chosen.tolist() == [bool(index % 2) for index in range(10)]
