"""DDA's augmenter with outside weights: Stable Diffusion image variations (arXiv 2410.17606)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench import Augmenter, DfkdError, StageContext, StageOptions, SyntheticBatch
from dfkd_bench.errors import first_line

# CLIP's image statistics, which the pipeline's own feature extractor uses.
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageVariationOptions(StageOptions):
    """Options of `image-variation`; guidance and steps are those of the demonstration that DDA's authors link."""

    model: str = Field("lambdalabs/sd-image-variations-diffusers", description="repository id, or a local folder")
    revision: str | None = Field("v2.0", description="revision of the repository; none for a local folder")
    variants: int = Field(3, ge=1, description="variants of each image (the paper's figure shows three)")
    steps: int = Field(25, ge=1, description="denoising steps")
    guidance: float = Field(3.0, ge=0, description="classifier-free guidance scale; 1 or less is none")
    batch_size: int = Field(16, ge=1, description="images that go through the pipeline at once")
    size: int | None = Field(None, ge=8, description="side of the generated images; none: the model's own")


class ImageVariation(Augmenter[ImageVariationOptions]):
    """Variants by a pretrained pipeline that sees the CLIP embedding of the image and nothing else of it.

    The weights were learned from web images: its prior is `image`. A repository id is downloaded on first use.
    """

    Options = ImageVariationOptions
    prior = "image"

    def __init__(self, options: ImageVariationOptions, context: StageContext) -> None:
        super().__init__(options, context)
        self.pipeline = _load(options, context)
        context.ledger.watch(self.pipeline.unet, "diffusion")

    @torch.no_grad()
    def augment(self, batch: SyntheticBatch) -> SyntheticBatch:
        """`variants` of each image at the dataset's size (bicubic, antialiased), same target."""
        options, context = self.options, self.context
        source = torch.arange(len(batch), device=context.device).repeat_interleave(options.variants)
        parts = []
        for index in source.split(options.batch_size):
            parts.append(self._vary(batch.images[index]))
            context.tick(sum(map(len, parts)), len(source))
        return SyntheticBatch(torch.cat(parts), batch.targets[source], source)

    def _vary(self, images: Tensor) -> Tensor:
        options, context = self.options, self.context
        channels, height, width = context.card.image_shape
        made = self.pipeline(
            image=self._for_clip(images),
            height=options.size,
            width=options.size,
            num_inference_steps=options.steps,
            guidance_scale=options.guidance,
            generator=context.generator,
            output_type="pt",
        ).images
        made = made.to(context.device, torch.float32)
        if channels == 1:
            made = made.mean(dim=1, keepdim=True)
        return F.interpolate(made, (height, width), mode="bicubic", antialias=True).clamp(0, 1)

    def _for_clip(self, images: Tensor) -> Tensor:
        """As the linked demonstration prepares them: bicubic without antialiasing, CLIP's statistics."""
        encoder = self.pipeline.image_encoder
        side = encoder.config.image_size
        images = images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images
        large = F.interpolate(images, (side, side), mode="bicubic", align_corners=False, antialias=False).clamp(0, 1)
        mean, std = (torch.tensor(v, device=images.device).view(1, 3, 1, 1) for v in (_CLIP_MEAN, _CLIP_STD))
        return ((large - mean) / std).to(encoder.dtype)


def _load(options: ImageVariationOptions, context: StageContext) -> Any:
    from diffusers import StableDiffusionImageVariationPipeline  # takes seconds; whoever only plans needs none of it

    local = Path(options.model).expanduser()
    half = torch.float16 if context.device.type == "cuda" else torch.float32
    try:
        pipeline = StableDiffusionImageVariationPipeline.from_pretrained(
            local if local.is_dir() else options.model,
            revision=None if local.is_dir() else options.revision,
            torch_dtype=half,
            # The safety checker replaces images by black ones, and has no say on 32-pixel frogs.
            safety_checker=None,
            requires_safety_checker=False,
        )
    except (OSError, ValueError) as error:
        raise DfkdError(
            f"image-variation cannot load '{options.model}' ({first_line(error)}): download it while online, "
            "or give a local folder with --set augmenter.model=PATH, or choose --augmenter self-diffusion"
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.requires_grad_(False)
    return pipeline.to(context.device)
