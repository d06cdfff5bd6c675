"""What the augmenters with pretrained diffusion models share: batches, seeds, the cache, resizing, counting."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench import Augmenter, DatasetCard, DfkdError, StageContext, StageOptions, SyntheticBatch
from dfkd_bench.stages.bank import quantize
from dfkd_bench.stages.requirements import NetworkFacts
from dfkd_dda.pretrained import find_model, identity, load_pretrained, missing, quiet
from dfkd_dda.variant_cache import VariantCache

__all__ = [
    "LatentAugmenter",
    "PretrainedAugmenter",
    "PretrainedOptions",
    "SizedOptions",
    "StrengthOptions",
    "in_color",
    "resize",
]

# What is counted, by where it lies in a pipeline. The autoencoder is called by its halves.
_ROLES = {
    "unet": "diffusion",
    "vae.encoder": "vae-encoder",
    "vae.decoder": "vae-decoder",
    "image_encoder": "clip-encoder",
    "text_encoder": "text-encoder",
}


class PretrainedOptions(StageOptions):
    """Options that all of them have."""

    added = frozenset({"safetensors"})

    model: str = Field(description="repository id in the local cache of the Hugging Face Hub, or a local folder")
    revision: str | None = Field(None, description="revision of the repository; none for a local folder")
    variants: int = Field(1, ge=1, description="variants of each image")
    batch_size: int = Field(16, ge=1, description="variants that are made at once; all variants of an image always are")
    safetensors: bool = Field(True, description="weights in that format; false: in .bin files, which can hold code")


class StrengthOptions(PretrainedOptions):
    """Options of those that noise an image and denoise it again (SDEdit, arXiv 2108.01073)."""

    strength: float = Field(0.5, gt=0, le=1, description="how far into the noise an image goes; 1 forgets it")
    steps: int = Field(50, ge=1, description="denoising steps from pure noise; an image takes int(steps * strength)")

    @model_validator(mode="after")
    def _runs(self) -> StrengthOptions:
        if int(self.steps * self.strength) < 1:
            raise ValueError(
                f"int(steps * strength) = int({self.steps} * {self.strength}) leaves no denoising step: raise either"
            )
        return self


class SizedOptions(PretrainedOptions):
    """Options of those that work at a size of one's choice."""

    size: int | None = Field(
        None, ge=8, multiple_of=8, description="side of the generated images; none: the model's own"
    )


OptionsT = TypeVar("OptionsT", bound=PretrainedOptions)


class PretrainedAugmenter(Augmenter[OptionsT]):
    """Variants by a model that was learned from web images: its prior is `image`.

    Subclasses load `self.pipeline` and make the variants of a batch; everything random there comes from the generator
    that they are given, whose seed is drawn from the stage's stream.

    Class attributes:
        parts: what a download of the default model consists of.
        only: the components of the model that are needed; empty: all.
    """

    prior = "image"
    parts: ClassVar[str] = "its networks"
    only: ClassVar[tuple[str, ...]] = ()

    def __init__(self, options: OptionsT, context: StageContext) -> None:
        super().__init__(options, context)
        refused = type(self).absent(options)
        if refused is not None:
            raise DfkdError(f"the augmenter {refused}")
        folder = find_model(options.model, options.revision)
        assert folder is not None  # else `absent` had said so
        self.pipeline: Any = self.load(folder)
        for path, role in _ROLES.items():
            if getattr(self.pipeline, path.partition(".")[0], None) is not None:
                module = attrgetter(path)(self.pipeline)
                module.requires_grad_(False)
                context.ledger.watch(module, role)
        self.known_as = identity(folder, options.model)
        maker = {"augmenter": type(self).__name__, "model": self.known_as, "shape": context.card.image_shape}
        chosen = options.model_dump(mode="json", exclude={"model", "revision", "safetensors"})
        self._cache = VariantCache(context.cache, context.ledger, {**maker, **chosen, **self.more_key()})

    @classmethod
    def absent(cls, options: OptionsT) -> str | None:
        """What of the model is not on this machine."""
        return missing(options.model, options.revision, safetensors=options.safetensors, parts=cls.parts, only=cls.only)

    @classmethod
    def unmet(cls, options: OptionsT, teacher: NetworkFacts, student: NetworkFacts, card: DatasetCard) -> str | None:
        """A model that is not on this machine."""
        return cls.absent(options)

    def load(self, folder: Path) -> Any:
        """The pipeline."""
        raise NotImplementedError

    def make(self, batch: SyntheticBatch, generator: torch.Generator) -> Tensor:
        """`variants` of each image, one image's after the other's: float [N * variants, 3, H, W] in [0, 1]."""
        raise NotImplementedError

    def generated_size(self) -> tuple[int, int]:
        """Height and width at which the model works."""
        raise NotImplementedError

    def more_key(self) -> Mapping[str, Any]:
        """What the variants depend on beside images, classes, model and options."""
        return {}

    @torch.no_grad()
    def augment(self, batch: SyntheticBatch) -> SyntheticBatch:
        """`variants` of each image at the dataset's size, same target."""
        options, context = self.options, self.context
        seed = int(torch.randint(2**62, (), generator=context.generator, device=context.device))
        share = max(1, options.batch_size // options.variants)
        parts = [quantize(batch.images[:0])]
        for start in range(0, len(batch), share):
            # A generator for each batch: a run that resumes behind batches that it finds draws the same.
            parts.append(self._part(batch.select(slice(start, start + share)), seed + start))
            context.tick(min(start + share, len(batch)), len(batch))
        source = torch.arange(len(batch), device=context.device).repeat_interleave(options.variants)
        return SyntheticBatch(torch.cat(parts).float() / 255, batch.targets[source], source)

    def _part(self, batch: SyntheticBatch, seed: int) -> Tensor:
        def make() -> Tensor:
            generator = torch.Generator(self.context.device).manual_seed(seed)
            channels, height, width = self.context.card.image_shape
            with quiet():
                made = self.make(batch, generator).float()
            made = made.mean(dim=1, keepdim=True) if channels == 1 else made
            return quantize(resize(made, (height, width)))

        return self._cache.get(batch, seed, make)

    def loaded(self, kind: Any, folder: Path, **more: Any) -> Any:
        """A pipeline of diffusers or a network, ready to be used."""
        safetensors = self.options.safetensors
        pipeline = load_pretrained(kind, folder, self.context.device, safetensors=safetensors, **more)
        if hasattr(pipeline, "set_progress_bar_config"):
            pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def report(self) -> dict[str, JsonValue]:
        """The model, and the image sizes between which it resizes."""
        return {
            "model": self.known_as,
            "generated_size": list(self.generated_size()),
            "image_size": list(self.context.card.image_shape[1:]),
            "resize": "bicubic, antialiased",
        }


SizedT = TypeVar("SizedT", bound=SizedOptions)


class LatentAugmenter(PretrainedAugmenter[SizedT]):
    """One whose U-Net works on the latents of an autoencoder."""

    def generated_size(self) -> tuple[int, int]:
        """By the option, or the model's own."""
        return (self.options.size or self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor,) * 2


def in_color(images: Tensor) -> Tensor:
    """[N, 3, H, W]: gray images three times."""
    return images.expand(-1, 3, -1, -1) if images.shape[1] == 1 else images


def resize(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Bicubic, antialiased, in [0, 1]; images of that size as they are."""
    if images.shape[-2:] == size:
        return images.clamp(0, 1)
    return F.interpolate(images, size, mode="bicubic", antialias=True).clamp(0, 1)
