from __future__ import annotations

import math

import pytest
import torch
from support.kit import make_card, make_context, make_convnet, plain_cross_entropy, plain_kl
from torch import Tensor, nn

import dfkd_bench.stages.plain as module
from dfkd_bench import Network, StageContext, StageOptions, SyntheticBatch
from dfkd_bench.stages.plain import (
    ClassicOptions,
    ClassicTransforms,
    Distillation,
    DistillationOptions,
    KeepAll,
    NoAugmentation,
    TeacherAgreement,
)


def some_batch(count: int = 6) -> SyntheticBatch:
    images = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return SyntheticBatch(images, torch.arange(count) % 3)


def test_no_augmentation_is_an_empty_batch_that_keeps_the_contract(toy_context):
    made = NoAugmentation(StageOptions(), toy_context).augment(some_batch())
    assert len(made) == 0
    made.check((3, 8, 8), 3, sourced=6)


def classic(context: StageContext, batch: SyntheticBatch, **options: object) -> SyntheticBatch:
    return ClassicTransforms(ClassicOptions(**options), context).augment(batch)


def test_classic_variants_follow_their_sources_and_keep_the_contract(toy_context):
    batch = some_batch()
    made = classic(toy_context, batch, variants=3)
    made.check((3, 8, 8), 3, sourced=6)
    assert made.source.tolist() == [index for index in range(6) for _ in range(3)]
    assert torch.equal(made.targets, batch.targets[made.source])
    assert not torch.equal(made.images[0], made.images[1])


def test_classic_without_crop_color_and_mirroring_is_the_image():
    card = make_card(flip=False)
    nets = make_convnet(card, seed=1), make_convnet(card, seed=2)
    made = classic(make_context(card, *nets), some_batch(), smallest_area=1.0, colour=0.0)
    torch.testing.assert_close(made.images, some_batch().images, rtol=0, atol=1e-5)


def test_classic_crops_keep_at_least_the_asked_area_and_mirror_where_the_card_does(toy_context, monkeypatch):
    asked = []

    def crop(images: Tensor, generator: torch.Generator, *, scale: tuple[float, float], flip: bool) -> Tensor:
        asked.append((scale, flip, generator is toy_context.generator))
        return images

    monkeypatch.setattr(module, "random_resized_crop", crop)
    classic(toy_context, some_batch(), smallest_area=0.7)
    assert asked == [((0.7, 1.0), True, True)]


def test_classic_changes_contrast_about_the_mean_and_brightness_by_a_factor_each(toy_context, monkeypatch):
    monkeypatch.setattr(module, "random_resized_crop", lambda images, generator, **_: images)
    # Half of each image is 0.4, half 0.6: the mean is 0.5, and nothing is cut off.
    images = torch.full((300, 3, 8, 8), 0.4)
    images[..., 4:] = 0.6
    made = classic(toy_context, SyntheticBatch(images, torch.zeros(300, dtype=torch.int64)), colour=0.2).images
    low, high = made[:, 0, 0, 0], made[:, 0, 0, 7]
    brightness = (low + high) / 1.0
    contrast = (high - low) / 0.2 / brightness
    for factor in (brightness, contrast):
        assert 0.8 - 1e-4 <= float(factor.min()) < 0.82
        assert 1.18 < float(factor.max()) <= 1.2 + 1e-4
    assert abs(float(torch.corrcoef(torch.stack((brightness, contrast)))[0, 1])) < 0.3


def test_classic_cuts_off_what_leaves_the_range(toy_context):
    white = SyntheticBatch(torch.ones(50, 3, 8, 8), torch.zeros(50, dtype=torch.int64))
    made = classic(toy_context, white, colour=0.5).images
    assert float(made.max()) == 1.0 and float(made.min()) < 0.8


def test_classic_images_hang_on_the_stages_stream_alone():
    card = make_card()
    nets = make_convnet(card, seed=1), make_convnet(card, seed=2)
    first, again, other = (classic(make_context(card, *nets, seed), some_batch()).images for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_filter_all_keeps_everything(toy_context):
    kept = KeepAll(StageOptions(), toy_context).keep(some_batch(), some_batch())
    assert kept.dtype == torch.bool and kept.tolist() == [True] * 6


class _Brightest(nn.Module):
    """Its logits are the means of the three channels."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(3, 3, bias=False)
        with torch.no_grad():
            self.out.weight.copy_(torch.eye(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.mean(dim=(2, 3)))


def test_the_filter_agreement_keeps_what_the_teacher_gives_its_target():
    card = make_card().model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})
    teacher = Network(_Brightest(), card).eval().requires_grad_(False)
    colors = torch.tensor([[0.9, 0.1, 0.2], [0.1, 0.2, 0.7], [0.3, 0.5, 0.4], [0.6, 0.5, 0.4]])
    images = colors[:, :, None, None].expand(-1, -1, 8, 8)
    augmented = SyntheticBatch(images, torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 1, 1]))
    kept = TeacherAgreement(StageOptions(), make_context(card, teacher, teacher)).keep(augmented, some_batch(2))
    assert kept.tolist() == [True, False, True, False]


@pytest.mark.parametrize("tau", [1.0, 4.0, 20.0])
def test_kd_is_the_kl_from_teacher_to_student_at_its_temperature_times_tau_squared(toy_context, tau):
    batch, student, teacher = some_batch(), toy_context.student, toy_context.teacher
    losses = Distillation(DistillationOptions(tau=tau), toy_context).losses(student, teacher, batch)
    got, wanted = (network(batch.images).double().numpy() / tau for network in (student, teacher))
    assert losses.keys() == {"kd"}
    assert float(losses["kd"]) == pytest.approx(tau**2 * plain_kl(wanted, got).mean(), rel=1e-3)


def test_kd_softens_by_twenty_unless_told_otherwise():
    assert DistillationOptions().tau == 20.0


def test_kd_adds_the_targets_cross_entropy_on_demand(toy_context):
    batch, student, teacher = some_batch(), toy_context.student, toy_context.teacher
    losses = Distillation(DistillationOptions(target_weight=0.3), toy_context).losses(student, teacher, batch)
    by_hand = plain_cross_entropy(student(batch.images).double().numpy(), batch.targets.numpy())
    assert float(losses["target"]) == pytest.approx(0.3 * by_hand, rel=1e-4)
    assert losses.keys() == {"kd", "target"}


def test_kd_moves_the_student_and_not_the_teacher(toy_context):
    student, teacher = toy_context.student.requires_grad_(True), toy_context.teacher.requires_grad_(True)
    loss = Distillation(DistillationOptions(tau=1.0), toy_context).losses(student, teacher, some_batch())["kd"]
    loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in (student.body.fc.weight,))
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_kd_is_zero_for_a_student_that_is_its_teacher(toy_context):
    teacher = toy_context.teacher
    loss = Distillation(DistillationOptions(), toy_context).losses(teacher, teacher, some_batch())["kd"]
    assert math.isclose(float(loss), 0.0, abs_tol=1e-5)
