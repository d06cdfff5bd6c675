from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionImageVariationPipeline, UNet2DConditionModel
from support.kit import make_card, make_context, make_pencil
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from dfkd_bench import DfkdError, SyntheticBatch
from dfkd_bench.contract import check_name
from dfkd_dda.image_variation import ImageVariation, ImageVariationOptions


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real pipeline, as small as it gets: images of 16 x 16 by way of latents of 8 x 8."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 8),
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=16,
            attention_head_dim=4,
            norm_num_groups=4,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            norm_num_groups=4,
            latent_channels=4,
            sample_size=16,
        )
        config = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=16,
            projection_dim=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            image_size=12,
            patch_size=4,
        )
        encoder = CLIPVisionModelWithProjection(config)
    pipeline = StableDiffusionImageVariationPipeline(
        vae=vae,
        image_encoder=encoder,
        unet=unet,
        scheduler=DDIMScheduler(),
        safety_checker=None,
        feature_extractor=CLIPImageProcessor(),
        requires_safety_checker=False,
    )
    made = tmp_path_factory.mktemp("pipeline")
    pipeline.save_pretrained(made)
    return made


def make(folder: Path | str, seed: int = 0, *, channels: int = 3, side: int = 8, **options: Any) -> ImageVariation:
    card = make_card(channels=channels, side=side)
    context = make_context(card, make_pencil(card, seed=1), make_pencil(card, seed=2), seed)
    return ImageVariation(ImageVariationOptions(model=str(folder), **{"steps": 2, **options}), context)


def some_batch(count: int = 3, channels: int = 3, side: int = 8) -> SyntheticBatch:
    images = torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))
    return SyntheticBatch(images, torch.arange(count) % 3)


@pytest.mark.parametrize(("channels", "side"), [(3, 8), (1, 8), (3, 20)])
def test_variants_have_the_cards_shape_and_range_and_follow_their_sources(folder, channels, side):
    batch = some_batch(channels=channels, side=side)
    made = make(folder, channels=channels, side=side, variants=2).augment(batch)
    made.check((channels, side, side), 3, sourced=3)
    assert made.source.tolist() == [0, 0, 1, 1, 2, 2]
    assert torch.equal(made.targets, batch.targets[made.source])
    assert not torch.equal(made.images[0], made.images[1])
    assert float(made.images.std()) > 0.001


@pytest.mark.parametrize(("guidance", "halves"), [(3.0, 2), (1.0, 1)])
def test_images_go_through_in_parts_and_every_evaluation_is_booked(folder, guidance, halves):
    sizes, ticks = [], []
    made = make(folder, variants=2, batch_size=4, steps=3, guidance=guidance)
    object.__setattr__(made.context, "tick", lambda done, total: ticks.append((done, total)))
    made.pipeline.image_encoder.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
    )
    with made.context.ledger.phase("p") as cost:
        made.augment(some_batch())
    assert sizes == [4, 2]
    assert ticks == [(4, 6), (6, 6)]
    # With guidance each step asks twice, with the image and without it.
    assert cost.forward == {"diffusion": 6 * 3 * halves} and cost.backward == {}


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
        image_encoder = made.pipeline.image_encoder

        def __call__(self, **asked: Any) -> Any:
            assert (asked["num_inference_steps"], asked["guidance_scale"]) == (2, 3.0)
            assert asked["generator"] is made.context.generator
            return type("Made", (), {"images": colors.repeat(len(asked["image"]), 1, 1, 1)})

    made.pipeline = Pipeline()
    images = made.augment(some_batch(1, channels=1, side=16)).images
    assert images.flatten().tolist() == pytest.approx([0.4] * (3 * 256), abs=1e-5)


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


@pytest.mark.parametrize("wrong", ["missing", "empty", "nobody/no-such-model"])
def test_weights_that_cannot_be_loaded_are_one_sentence(tmp_path, wrong):
    model = wrong if "/" in wrong else str(tmp_path / wrong)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DfkdError) as caught:
        make(model)
    sentence = str(caught.value)
    assert sentence.startswith(f"image-variation cannot load '{model}' (")
    assert "--set augmenter.model=PATH" in sentence and "--augmenter self-diffusion" in sentence
    assert "\n" not in sentence
    assert caught.value.__cause__ is not None


def test_of_a_long_reason_the_first_line_is_said(folder, monkeypatch):
    def load(*_: Any, **__: Any) -> Any:
        raise OSError("no such weights\nTraceback and advice")

    monkeypatch.setattr(StableDiffusionImageVariationPipeline, "from_pretrained", load)
    with pytest.raises(DfkdError, match=r"\(no such weights\): download it while online") as caught:
        make(folder)
    assert "advice" not in str(caught.value)


def test_a_folder_in_which_a_part_is_broken_is_one_sentence_too(folder, tmp_path):
    import shutil

    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    next((broken / "unet").glob("*.safetensors")).unlink()
    with pytest.raises(DfkdError, match="image-variation cannot load") as caught:
        make(broken)
    assert "\n" not in str(caught.value)


def test_holds_the_contract(folder):
    settings = {"model": str(folder), "revision": None, "steps": 2, "variants": 2}
    findings = [f for f in check_name("image-variation", options={"augmenter": settings}) if f.verdict != "skipped"]
    assert [str(finding) for finding in findings if finding.verdict == "fail"] == []
    assert len(findings) == 9
