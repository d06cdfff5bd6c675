"""The null baseline: images that know nothing of the teacher."""

from __future__ import annotations

import torch
from pydantic import Field

from dfkd_bench import Round, StageOptions, Synthesizer, SyntheticBatch


class NoiseOptions(StageOptions):
    """Options of `noise`."""

    batch_size: int = Field(256, ge=1, description="images in a round")


class Noise(Synthesizer[NoiseOptions]):
    """Gaussian noise with the dataset's mean and standard deviation, in [0, 1]; the target is the teacher's guess."""

    Options = NoiseOptions

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
