"""Null baselines: images that know nothing of the teacher."""

from __future__ import annotations

import torch
from pydantic import Field

from dfkd_bench import (
    Passes,
    Projection,
    Round,
    StageContext,
    StageOptions,
    Synthesizer,
    SyntheticBatch,
    Workload,
    flops_per_image,
)
from dfkd_bench.blocks.generators import Generator, placed, reset_generator


class NoiseOptions(StageOptions):
    """Options of `noise`."""

    batch_size: int = Field(256, ge=1, description="images in a round")


class Noise(Synthesizer[NoiseOptions]):
    """Gaussian noise with the dataset's mean and standard deviation, in [0, 1]; the target is the teacher's guess."""

    Options = NoiseOptions

    @classmethod
    def projection(cls, options: NoiseOptions, load: Workload) -> Projection:
        """The teacher names the class of each image."""
        images = (load.warmup_rounds + load.main_rounds) * options.batch_size
        return Projection(images, (Passes("teacher", images),))

    def synthesize(self, round: Round) -> SyntheticBatch:
        """`batch_size` noise images."""
        context = self.context
        shape = (self.options.batch_size, *context.card.image_shape)
        noise = torch.randn(shape, generator=context.generator, device=context.device)
        card, device = context.card, context.device
        mean, std = (torch.tensor(values, device=device).view(-1, 1, 1) for values in (card.mean, card.std))
        images = (noise * std + mean).clamp(0, 1)
        with torch.no_grad():
            targets = context.teacher(images).argmax(dim=1)
        return SyntheticBatch(images, targets)


class UntrainedGeneratorOptions(StageOptions):
    """Options of `untrained-generator`."""

    batch_size: int = Field(256, ge=1, description="images in a round, all from the same weights")
    latent_dim: int = Field(256, ge=1, description="length of a latent")


class UntrainedGenerator(Synthesizer[UntrainedGeneratorOptions]):
    """Images of CMI's generator in training mode, its weights drawn anew each round and never trained.

    A released repository stores just these by accident (B49). The target is the teacher's guess.
    """

    Options = UntrainedGeneratorOptions

    @classmethod
    def projection(cls, options: UntrainedGeneratorOptions, load: Workload) -> Projection:
        """The generator makes each image, the teacher names its class."""
        images, latent_dim = (load.warmup_rounds + load.main_rounds) * options.batch_size, options.latent_dim
        shape = load.card.image_shape
        made = Passes(
            "generator", images, flops=lambda: flops_per_image(lambda: Generator(latent_dim, shape), (1, latent_dim))
        )
        return Projection(images, (made, Passes("teacher", images)))

    def __init__(self, options: UntrainedGeneratorOptions, context: StageContext) -> None:
        super().__init__(options, context)
        with context.seeded():
            generator = Generator(options.latent_dim, context.card.image_shape)
        self.generator = placed(generator, context.device).train()
        context.ledger.watch(self.generator, "generator")

    @torch.no_grad()
    def synthesize(self, round: Round) -> SyntheticBatch:
        """`batch_size` images in [0, 1]."""
        context = self.context
        reset_generator(self.generator, context.generator)
        shape = (self.options.batch_size, self.options.latent_dim)
        latents = torch.randn(shape, generator=context.generator, device=context.device)
        images = context.images_from(self.generator, latents)
        return SyntheticBatch(images, context.teacher(images).argmax(dim=1))
