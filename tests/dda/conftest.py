"""Real pipelines, as small as they get, with weights from a seed: images of 16 x 16 by way of latents of 8 x 8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DDPMPipeline,
    DDPMScheduler,
    StableDiffusionImageVariationPipeline,
    StableDiffusionPipeline,
    StableUnCLIPImg2ImgPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

_WIDTH = 16


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def _unet(**more: Any) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(8, 8),
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=_WIDTH,
        attention_head_dim=4,
        norm_num_groups=4,
        **more,
    )


def _vae() -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        latent_channels=4,
        sample_size=16,
    )
    # So that its images, which are kept as bytes, are not all of one gray.
    vae.decoder.conv_out.weight.data.mul_(4)
    return vae


def _image_encoder() -> CLIPVisionModelWithProjection:
    config = CLIPVisionConfig(
        hidden_size=_WIDTH,
        intermediate_size=_WIDTH,
        projection_dim=_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=12,
        patch_size=4,
    )
    encoder = CLIPVisionModelWithProjection(config)
    encoder.visual_projection.weight.data.mul_(50)
    return encoder


def _text(folder: Path) -> dict[str, Any]:
    letters = [chr(code) for code in range(33, 127)]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=_WIDTH,
        intermediate_size=_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=24,
        bos_token_id=len(words) - 2,
        eos_token_id=len(words) - 1,
        pad_token_id=len(words) - 1,
    )
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24)
    return {"text_encoder": CLIPTextModel(config), "tokenizer": tokenizer}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By augmenter, the folder of a pipeline that it takes."""
    root = tmp_path_factory.mktemp("pipelines")
    scheduler = DDIMScheduler(steps_offset=1, clip_sample=False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        text = _text(root)
        unchecked: dict[str, Any] = {"safety_checker": None, "requires_safety_checker": False}
        made = {
            "image-variation": StableDiffusionImageVariationPipeline(
                vae=_vae(),
                image_encoder=_image_encoder(),
                unet=_unet(),
                scheduler=scheduler,
                feature_extractor=CLIPImageProcessor(),
                **unchecked,
            ),
            "unclip-variation": StableUnCLIPImg2ImgPipeline(
                feature_extractor=CLIPImageProcessor(),
                image_encoder=_image_encoder(),
                image_normalizer=StableUnCLIPImageNormalizer(_WIDTH),
                image_noising_scheduler=DDPMScheduler(),
                unet=_unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * _WIDTH),
                scheduler=scheduler,
                vae=_vae(),
                **text,
            ),
            "image-to-image": StableDiffusionPipeline(
                vae=_vae(), unet=_unet(), scheduler=scheduler, feature_extractor=None, **text, **unchecked
            ),
            "pixel-diffusion": DDPMPipeline(
                UNet2DModel(
                    sample_size=16,
                    block_out_channels=(8, 8),
                    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
                    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
                    layers_per_block=1,
                    norm_num_groups=4,
                ),
                DDPMScheduler(),
            ),
        }
    for name, pipeline in made.items():
        pipeline.save_pretrained(root / name)
    return {**{name: root / name for name in made}, "vae-roundtrip": root / "image-to-image"}
