from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from support.kit import make_card, make_context, make_pencil, stored
from torch import Tensor

from dfkd_bench import ImageBank, SyntheticBatch
from dfkd_dda.self_diffusion import SelfDiffusion, SelfDiffusionOptions

CPU = torch.device("cpu")


def make(seed: int = 0, channels: int = 1, **options: Any) -> SelfDiffusion:
    card = make_card(channels=channels)
    context = make_context(card, make_pencil(card, seed=1), make_pencil(card, seed=2), seed)
    small = {"channels": (8, 16), "timesteps": 100, "train_steps": 120, "train_batch": 16, "lr": 5e-3, "steps": 8}
    return SelfDiffusion(SelfDiffusionOptions(**{**small, **options}), context)


def some_batch(channels: int = 1) -> SyntheticBatch:
    """Two kinds of images: a bright left half and a bright upper half."""
    images = torch.full((6, channels, 8, 8), 0.1)
    images[:3, :, :, :4] = 0.9
    images[3:, :, :4] = 0.9
    return SyntheticBatch(images, torch.tensor([0, 0, 0, 1, 1, 1]))


def some_bank(channels: int = 1) -> ImageBank:
    bank = ImageBank((channels, 8, 8), CPU, torch.Generator().manual_seed(0))
    bank.add(some_batch(channels))
    return bank


def noise_error(made: SelfDiffusion) -> float:
    """Mean squared error of the noise that it sees in the bank's images, over all noise levels; 1 for knowing nothing.

    The noise is laid by its definition: sqrt(a) x + sqrt(1 - a) e, with x in [-1, 1].
    """
    generator = torch.Generator().manual_seed(7)
    clean = (2 * some_batch().images - 1).repeat(20, 1, 1, 1)
    noise = torch.randn(clean.shape, generator=generator)
    at = torch.arange(0, 100, 5).repeat_interleave(6)
    kept = made.scheduler.alphas_cumprod[at].view(-1, 1, 1, 1)
    with torch.no_grad():
        told = made.unet(kept.sqrt() * clean + (1 - kept).sqrt() * noise, at).sample
    return float((told - noise).square().mean())


@pytest.fixture(scope="module")
def trained() -> SelfDiffusion:
    made = make()
    made.prepare_fully(some_bank())
    return made


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).square().mean().sqrt())


def variants(made: SelfDiffusion, strength: float, seed: int = 5, batch: SyntheticBatch | None = None) -> Tensor:
    other = make(strength=strength, seed=seed)
    other.load_state_dict(made.state_dict())
    other.context.generator.manual_seed(seed)
    return other.augment(batch or some_batch()).images


def test_it_learns_from_the_bank_and_is_frozen_afterwards(trained):
    before = noise_error(make())
    assert before > 0.8
    assert noise_error(trained) < 0.5 * before
    assert not trained.unet.training
    assert not any(parameter.requires_grad for parameter in trained.unet.parameters())


def test_what_it_makes_looks_like_the_bank(trained):
    made, sources = variants(trained, 0.8), some_batch().images
    # Far nearer to one of the bank's two images than gray or noise could be.
    nearest = torch.stack([(made - sources[at]).square().mean(dim=(1, 2, 3)).sqrt() for at in (0, 3)]).amin(dim=0)
    assert float(nearest.mean()) < 0.25


def test_a_small_strength_stays_nearer_to_the_image_than_strength_one(trained):
    sources = some_batch().images
    # Each image's own noise, the mean over a few draws.
    near, far = (sum(distance(variants(trained, s, seed), sources) for seed in range(4)) / 4 for s in (0.2, 1.0))
    assert near < 0.5 * far


def test_variants_follow_their_sources_and_keep_the_contract(trained):
    batch = some_batch()
    made = make(variants=3)
    made.load_state_dict(trained.state_dict())
    augmented = made.augment(batch)
    augmented.check((1, 8, 8), 3, sourced=6)
    assert augmented.source.tolist() == [index for index in range(6) for _ in range(3)]
    assert torch.equal(augmented.targets, batch.targets[augmented.source])
    assert not torch.equal(augmented.images[0], augmented.images[1])


@pytest.mark.parametrize(("strength", "steps"), [(1.0, 8), (0.6, 5), (0.01, 1)])
def test_an_image_takes_strength_times_as_many_steps_and_each_is_booked(strength, steps):
    made = make(strength=strength, variants=2)
    with made.context.ledger.phase("p") as cost:
        made.augment(some_batch())
    assert cost.forward == {"diffusion": 12 * steps}
    assert cost.backward == {}


def first_look(made: SelfDiffusion) -> tuple[Tensor, float]:
    """What the U-Net is given first, and the part of the image's energy in it by the squared-cosine schedule."""
    seen: list[tuple[Tensor, int]] = []
    handle = made.unet.register_forward_pre_hook(lambda _, args: seen.append((args[0].clone(), int(args[1]))))
    made.augment(some_batch())
    handle.remove()
    noisy, at = seen[0]

    def level(part: float) -> float:
        return math.cos((part + 0.008) / 1.008 * math.pi / 2) ** 2

    return noisy, level((at + 1) / made.options.timesteps) / level(0)


@pytest.mark.parametrize(("strength", "least", "most"), [(0.25, 0.8, 0.95), (0.6, 0.25, 0.5), (1.0, 0.0, 0.01)])
def test_an_image_goes_as_far_into_the_noise_as_the_first_step_back_expects(strength, least, most):
    made = make(strength=strength)
    stream = torch.Generator()
    stream.set_state(made.context.generator.get_state())
    noisy, kept = first_look(made)
    assert least < kept < most
    noise = torch.randn(6, 1, 8, 8, generator=stream)
    by_hand = math.sqrt(kept) * (2 * some_batch().images - 1) + math.sqrt(1 - kept) * noise
    torch.testing.assert_close(noisy, by_hand, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("steps", [2, 10])
def test_at_strength_one_nothing_of_the_image_is_left(steps):
    _, kept = first_look(make(strength=1.0, steps=steps, timesteps=1000))
    assert math.sqrt(kept) < 0.01


def test_its_training_is_booked():
    made = make(train_steps=3)
    with made.context.ledger.phase("p") as cost:
        made.prepare_fully(some_bank())
    assert cost.forward == cost.backward == {"diffusion": 48}


def test_it_works_on_colors():
    made = make(channels=3, train_steps=2)
    made.prepare_fully(some_bank(3))
    made.augment(some_batch(3)).check((3, 8, 8), 3, sourced=6)


def test_it_goes_on_from_its_state(trained):
    other = make(seed=9)
    other.load_state_dict(stored(trained.state_dict()))
    for made in (trained, other):
        made.context.generator.manual_seed(4)
    assert torch.equal(trained.augment(some_batch()).images, other.augment(some_batch()).images)
    assert noise_error(other) == noise_error(trained)


def test_a_training_that_was_cut_off_ends_in_the_same_weights(monkeypatch):
    monkeypatch.setattr("dfkd_dda.self_diffusion._STEPS_AT_A_TIME", 2)
    whole, first, second = (make(train_steps=3) for _ in range(3))
    bank = some_bank()
    whole.prepare_fully(bank)
    assert first.prepare(bank) == 2 / 3
    second.load_state_dict(stored(first.state_dict()))
    second.context.generator.set_state(first.context.generator.get_state())
    assert second.prepare(bank) == 1
    assert all(torch.equal(a, b) for a, b in zip(whole.unet.parameters(), second.unet.parameters(), strict=True))
    assert "optimizer" not in second.state_dict()


def test_told_the_class_it_makes_another_image_of_the_same_noise():
    made = make(train_steps=40, class_conditional=True, strength=1.0)
    made.prepare_fully(some_bank())
    images = []
    for targets in (torch.zeros(6, dtype=torch.int64), torch.ones(6, dtype=torch.int64)):
        made.context.generator.manual_seed(4)
        images.append(made.augment(SyntheticBatch(some_batch().images, targets)).images)
    # Class 0 is bright on the left, class 1 on top.
    left, top = (image[..., 4:, :4].mean() - image[..., :4, 4:].mean() for image in images)
    assert left > top + 0.1


def test_the_option_leaves_hashes_as_they_were():
    assert "class_conditional" not in SelfDiffusionOptions().model_dump()
    assert SelfDiffusionOptions(class_conditional=True).model_dump()["class_conditional"] is True


def test_the_same_seed_learns_and_makes_the_same():
    results = []
    for seed in (1, 1, 2):
        made = make(seed, train_steps=3)
        made.prepare_fully(some_bank())
        results.append(made.augment(some_batch()).images)
    assert torch.equal(results[0], results[1]) and not torch.equal(results[0], results[2])


def test_it_brings_no_prior():
    assert SelfDiffusion.prior_with(SelfDiffusionOptions()) == "none"
    assert SelfDiffusion.requires_with(SelfDiffusionOptions()) == frozenset()
