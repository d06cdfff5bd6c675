"""DDA's augmenters that see an image's CLIP embedding and nothing else of it (arXiv 2410.17606)."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench import Passes, Projection, SyntheticBatch, Workload, flops_per_image
from dfkd_dda.pipelines import LatentAugmenter, SizedOptions, in_color, resize
from dfkd_dda.pretrained import find_model, quiet, read_config

__all__ = ["ImageVariation", "ImageVariationOptions", "UnclipVariation", "UnclipVariationOptions", "normalized"]

# CLIP's image statistics, which the pipelines' own feature extractors use.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def normalized(images: Tensor) -> Tensor:
    """Images in [0, 1] under CLIP's statistics."""
    mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (_CLIP_MEAN, _CLIP_STD))
    return (images - mean) / std


class ImageVariationOptions(SizedOptions):
    """Options of `image-variation`; guidance and steps are those of the demonstration that DDA's authors link."""

    model: str = Field("lambdalabs/sd-image-variations-diffusers", description="repository id, or a local folder")
    revision: str | None = Field("v2.0", description="revision of the repository; none for a local folder")
    variants: int = Field(3, ge=1, description="variants of each image (the paper's figure shows three)")
    steps: int = Field(25, ge=1, description="denoising steps")
    guidance: float = Field(3.0, ge=0, description="classifier-free guidance scale; 1 or less is none")


class ImageVariation(LatentAugmenter[ImageVariationOptions]):
    """Stable Diffusion 1 retrained to see a CLIP image embedding in place of a text."""

    Options = ImageVariationOptions
    parts = "its U-Net, VAE and CLIP image encoder (for the default model about 5 GB)"

    @classmethod
    def projection(cls, options: ImageVariationOptions, load: Workload) -> Projection | None:
        """From the model's configurations, whose weights are not looked at; None if they are not on this machine."""
        folder = find_model(options.model, options.revision)
        if folder is None:
            return None
        variants = load.sources * options.variants
        evaluations = variants * options.steps * (2 if options.guidance > 1 else 1)
        images = {"diffusion": evaluations, "vae-decoder": variants, "clip-encoder": load.sources}

        def flops(role: str) -> Callable[[], int]:
            return lambda: _flops_of_parts(folder, options.size)[role]

        passes = tuple(Passes(role, count, flops=flops(role)) for role, count in images.items())
        return Projection(variants, passes)

    def load(self, folder: Path) -> Any:
        """The pipeline, without its safety checker, which replaces images by black ones."""
        from diffusers import StableDiffusionImageVariationPipeline  # takes seconds; who only plans needs none of it

        return self.loaded(
            StableDiffusionImageVariationPipeline, folder, safety_checker=None, requires_safety_checker=False
        )

    def make(self, batch: SyntheticBatch, generator: torch.Generator) -> Tensor:
        """Each image is embedded once for all its variants."""
        options = self.options
        height, width = self.generated_size()
        made: Tensor = self.pipeline(
            image=self._for_clip(batch.images),
            height=height,
            width=width,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            num_images_per_prompt=options.variants,
            generator=generator,
            output_type="pt",
        ).images
        return made

    def _for_clip(self, images: Tensor) -> Tensor:
        """As the linked demonstration prepares them: bicubic without antialiasing, CLIP's statistics."""
        encoder = self.pipeline.image_encoder
        side = encoder.config.image_size
        large = F.interpolate(in_color(images), (side, side), mode="bicubic", align_corners=False, antialias=False)
        return normalized(large.clamp(0, 1)).to(encoder.dtype)


@functools.lru_cache(maxsize=8)
def _flops_of_parts(folder: Path, size: int | None) -> dict[str, int]:
    """For an image forward through each network of a pipeline, built from its configuration without weights."""
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    configs = [read_config(folder / part) for part in ("unet", "vae", "image_encoder")]
    with torch.device("meta"), quiet():
        unet, vae = UNet2DConditionModel.from_config(configs[0]), AutoencoderKL.from_config(configs[1])
        encoder = CLIPVisionModelWithProjection(CLIPVisionConfig.from_dict(configs[2]))
    smaller = 2 ** (len(vae.config.block_out_channels) - 1)
    latent_side = unet.config.sample_size if size is None else size // smaller
    latents = (1, unet.config.in_channels, latent_side, latent_side)
    side = encoder.config.image_size
    embedding = (1, 1, unet.config.cross_attention_dim)
    return {
        "diffusion": flops_per_image(lambda: unet, latents, (1,), encoder_hidden_states=embedding),
        "vae-decoder": flops_per_image(lambda: vae.decoder, latents),
        "clip-encoder": flops_per_image(lambda: encoder, (1, 3, side, side)),
    }


class UnclipVariationOptions(SizedOptions):
    """Options of `unclip-variation`; guidance and steps are the pipeline's own."""

    model: str = Field("sd2-community/stable-diffusion-2-1-unclip", description="repository id, or a local folder")
    variants: int = Field(3, ge=1, description="variants of each image (the paper's figure shows three)")
    steps: int = Field(20, ge=1, description="denoising steps")
    guidance: float = Field(10.0, ge=0, description="classifier-free guidance scale; 1 or less is none")
    noise_level: int = Field(0, ge=0, le=999, description="noise on the image's embedding; more gives wider variation")


class UnclipVariation(LatentAugmenter[UnclipVariationOptions]):
    """Stable Diffusion 2.1 unCLIP (arXiv 2204.06125): "image variations with Stable Diffusion 2", taken literally."""

    Options = UnclipVariationOptions
    parts = "its U-Net, VAE, CLIP image encoder and text encoder (for the default model about 8 GB)"

    def load(self, folder: Path) -> Any:
        """The pipeline."""
        from diffusers import StableUnCLIPImg2ImgPipeline

        return self.loaded(StableUnCLIPImg2ImgPipeline, folder)

    def make(self, batch: SyntheticBatch, generator: torch.Generator) -> Tensor:
        """Each image is embedded once for all its variants; the prompt is empty."""
        options, encoder = self.options, self.pipeline.image_encoder
        side = encoder.config.image_size
        height, width = self.generated_size()
        made: Tensor = self.pipeline(
            image=normalized(resize(in_color(batch.images), (side, side))).to(encoder.dtype),
            prompt=[""] * len(batch),
            height=height,
            width=width,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            noise_level=options.noise_level,
            num_images_per_prompt=options.variants,
            generator=generator,
            output_type="pt",
        ).images
        return made
