from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.kit import make_card, make_context, make_pencil
from torch import Tensor

from dfkd_bench import SyntheticBatch, Workload
from dfkd_dda.image_variation import ImageVariation, ImageVariationOptions


@pytest.fixture(scope="module")
def folder(models: dict[str, Path]) -> Path:
    return models["image-variation"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path) -> None:
    global CACHE  # noqa: PLW0603
    CACHE = tmp_path


def make(folder: Path | str, seed: int = 0, *, channels: int = 3, side: int = 8, **options: Any) -> ImageVariation:
    card = make_card(channels=channels, side=side)
    context = make_context(card, make_pencil(card, seed=1), make_pencil(card, seed=2), seed, cache=CACHE)
    return ImageVariation(ImageVariationOptions(model=str(folder), **{"steps": 2, **options}), context)


def some_batch(count: int = 3, channels: int = 3, side: int = 8) -> SyntheticBatch:
    images = torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))
    return SyntheticBatch(images, torch.arange(count) % 3)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_encoder_sees_the_image_at_its_own_size_under_clips_statistics(folder, channels):
    seen: list[Tensor] = []
    made = make(folder, channels=channels, variants=1)
    made.pipeline.image_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(args[0] if args else kwargs["pixel_values"]), with_kwargs=True
    )
    images = torch.tensor([0.0, 0.25, 1.0]).view(3, 1, 1, 1).expand(-1, channels, 8, 8)
    made.augment(SyntheticBatch(images, torch.tensor([0, 1, 2])))
    assert seen[0].shape == (3, 3, 12, 12)
    for image, value in zip(seen[0], (0.0, 0.25, 1.0), strict=True):
        expected = [(value - 0.48145466) / 0.26862954, (value - 0.4578275) / 0.26130258]
        expected.append((value - 0.40821073) / 0.27577711)
        assert image.mean(dim=(1, 2)).tolist() == pytest.approx(expected, abs=1e-4)
        assert image.std(dim=(1, 2)).tolist() == pytest.approx([0.0] * 3, abs=1e-4)


def test_gray_variants_are_the_mean_of_the_three_colors(folder):
    made = make(folder, channels=1, side=16)
    colors = torch.zeros(1, 3, 16, 16)
    colors[:, 0], colors[:, 1], colors[:, 2] = 0.9, 0.3, 0.0

    class Pipeline:
        image_encoder, unet, vae_scale_factor = made.pipeline.image_encoder, made.pipeline.unet, 2

        def __call__(self, **asked: Any) -> Any:
            assert (asked["num_inference_steps"], asked["guidance_scale"]) == (2, 3.0)
            assert asked["generator"].initial_seed() == seed
            return type(
                "Made", (), {"images": colors.repeat(len(asked["image"]) * asked["num_images_per_prompt"], 1, 1, 1)}
            )

    stream = torch.Generator()
    stream.set_state(made.context.generator.get_state())
    seed = int(torch.randint(2**62, (), generator=stream))
    made.pipeline = Pipeline()
    images = made.augment(some_batch(1, channels=1, side=16)).images
    assert images.flatten().tolist() == pytest.approx([0.4] * (3 * 256), abs=1 / 255)


def test_the_side_of_what_is_generated_can_be_asked_for(folder):
    for size, latent in ((None, 8), (32, 16)):
        seen: list[tuple[int, ...]] = []
        made = make(folder, variants=1, size=size)
        made.pipeline.unet.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(tuple(args[0].shape[2:])))
        made.augment(some_batch())
        assert set(seen) == {(latent, latent)}


def test_a_variant_hangs_on_its_image(folder):
    made = make(folder, variants=1, guidance=1.0)
    images = []
    for value in (0.0, 1.0):
        made.context.generator.manual_seed(3)
        images.append(made.augment(SyntheticBatch(torch.full((1, 3, 8, 8), value), torch.tensor([0]))).images)
    assert not torch.equal(*images)


def test_the_same_seed_gives_the_same_images_and_another_seed_others(folder):
    first, again, other = (make(folder, seed).augment(some_batch()).images for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_its_weights_are_frozen_and_its_prior_is_the_images_that_they_were_learnt_from(folder):
    assert ImageVariation.prior_with(ImageVariationOptions()) == "image"
    made = make(folder)
    assert not any(parameter.requires_grad for parameter in made.pipeline.unet.parameters())
    assert made.augment(some_batch()).images.requires_grad is False
    assert made.state_dict() == {}


@pytest.mark.parametrize("options", [{}, {"guidance": 1.0, "variants": 2}])
def test_its_projection_is_what_the_ledger_counts(folder, options):
    made = make(folder, **options)
    with made.context.ledger.phase("p") as cost:
        made.augment(some_batch())
    projected = ImageVariation.projection(made.options, Workload(made.context.card, sources=3))
    assert projected is not None
    assert projected.images == 3 * made.options.variants
    assert {each.network: each.forward for each in projected.passes} == cost.forward
    assert sum(each.forward * each.flops() for each in projected.passes) == cost.flops


def test_without_a_model_nothing_is_projected():
    assert ImageVariation.projection(ImageVariationOptions(model="nobody/nothing"), Workload(make_card())) is None
