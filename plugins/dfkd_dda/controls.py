"""Augmenters without a model, the controls of diffusion: does it help beyond what these do?"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench import Augmenter, Projection, StageOptions, SyntheticBatch, Workload

__all__ = ["CutMix", "Identity", "MixOptions", "MixUp"]


class IdentityOptions(StageOptions):
    """Options of `identity`."""

    variants: int = Field(1, ge=1, description="copies of each image")


class Identity(Augmenter[IdentityOptions]):
    """Copies: the bank grows as with another augmenter and learns nothing new."""

    Options = IdentityOptions

    @classmethod
    def projection(cls, options: IdentityOptions, load: Workload) -> Projection:
        """No network's pass."""
        return Projection(load.sources * options.variants)

    def augment(self, batch: SyntheticBatch) -> SyntheticBatch:
        """`variants` copies of each image."""
        source = torch.arange(len(batch), device=batch.images.device).repeat_interleave(self.options.variants)
        return SyntheticBatch(batch.images[source], batch.targets[source], source)


class MixOptions(StageOptions):
    """Options of `mixup` and `cutmix`."""

    variants: int = Field(1, ge=1, description="mixtures that each image has the first part in")
    alpha: float = Field(1.0, gt=0, description="both parameters of the Beta distribution of the first part's share")


class _Mixture(Augmenter[MixOptions]):
    """Two images of a batch in one; the soft label has the share of each, the target is the larger one's."""

    Options = MixOptions

    @classmethod
    def projection(cls, options: MixOptions, load: Workload) -> Projection:
        """No network's pass."""
        return Projection(load.sources * options.variants)

    def augment(self, batch: SyntheticBatch) -> SyntheticBatch:
        """`variants` mixtures of each image with others of the batch, drawn anew for each."""
        generator, device = self.context.generator, self.context.device
        first = torch.arange(len(batch), device=device).repeat_interleave(self.options.variants)
        second = torch.randint(len(batch), first.shape, generator=generator, device=device)
        with self.context.seeded():  # the distribution takes no generator
            drawn = torch.distributions.Beta(self.options.alpha, self.options.alpha).sample(first.shape).to(device)
        images, share = self._mix(batch.images[first], batch.images[second], drawn)
        classes = self.context.card.num_classes
        one, other = (F.one_hot(batch.targets[index], classes).float() for index in (first, second))
        soft = share[:, None] * one + (1 - share[:, None]) * other
        return SyntheticBatch(images, soft.argmax(dim=1), torch.stack((first, second), dim=1), soft)

    def _mix(self, one: Tensor, other: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        raise NotImplementedError


class MixUp(_Mixture):
    """share * x_i + (1 - share) * x_j, share ~ Beta(alpha, alpha) (arXiv 1710.09412)."""

    def _mix(self, one: Tensor, other: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        wide = share.view(-1, 1, 1, 1)
        return wide * one + (1 - wide) * other, share


class CutMix(_Mixture):
    """A box of x_j in x_i (arXiv 1905.04899): its sides are sqrt(1 - share) of the image's, its center anywhere.

    What of the box lies outside is cut off, and the label has the share that is left to see.
    """

    def _mix(self, one: Tensor, other: Tensor, share: Tensor) -> tuple[Tensor, Tensor]:
        sides = one.shape[-2:]
        centers = torch.rand(2, len(one), generator=self.context.generator, device=one.device)
        inside = [
            _within(side, center * side, (1 - share).sqrt() * side) for side, center in zip(sides, centers, strict=True)
        ]
        box = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        return torch.where(box, other, one), 1 - box.float().mean(dim=(1, 2, 3))


def _within(side: int, center: Tensor, length: Tensor) -> Tensor:
    """bool [N, side]: which pixels' centers lie in an interval."""
    at = torch.arange(side, device=center.device) + 0.5
    return (at - center[:, None]).abs() < length[:, None] / 2
