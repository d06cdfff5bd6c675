"""Null baselines that use images which are not the dataset's, and references that use the real ones."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench import DatasetCard, Distiller, Network, Round, StageContext, StageOptions, Synthesizer, SyntheticBatch
from dfkd_bench.blocks.views import crop_and_flip, random_resized_crop


def to_card(images: Tensor, card: DatasetCard) -> Tensor:
    """Images float32 [N, C', H', W'] in [0, 1] in a card's channels and size (bilinear, antialiased)."""
    channels, height, width = card.image_shape
    if images.shape[1] != channels:
        images = images.mean(dim=1, keepdim=True).expand(-1, channels, -1, -1)
    if images.shape[-2:] != (height, width):
        images = F.interpolate(images, (height, width), mode="bilinear", antialias=True)
    return images.clamp(0, 1).contiguous()


class OneImageOptions(StageOptions):
    """Options of `one-image`."""

    batch_size: int = Field(256, ge=1, description="crops in a round")
    picture: Literal["china.jpg", "flower.jpg"] = Field(
        "china.jpg", description="which of scikit-learn's sample pictures"
    )
    smallest_area: float = Field(0.01, gt=0, le=1, description="least part of the picture that a crop shows")


class OneImage(Synthesizer[OneImageOptions]):
    """Crops of a single photograph (after Asano & Saeed, arXiv 2112.00725); the target is the teacher's guess."""

    Options = OneImageOptions
    prior = "image"

    def __init__(self, options: OneImageOptions, context: StageContext) -> None:
        super().__init__(options, context)
        from sklearn.datasets import load_sample_image

        picture = torch.from_numpy(load_sample_image(options.picture).copy()).permute(2, 0, 1).float() / 255
        # Four times the dataset's size: enough for a small crop, and cheap to crop from.
        side = 4 * max(context.card.image_shape[1:])
        self.picture = F.interpolate(picture[None], (side, side), mode="bilinear", antialias=True).to(context.device)

    def synthesize(self, round: Round) -> SyntheticBatch:
        """`batch_size` random resized crops, mirrored half of the time."""
        options, context = self.options, self.context
        many = self.picture.expand(options.batch_size, -1, -1, -1)
        crops = random_resized_crop(many, context.generator, scale=(options.smallest_area, 1.0), flip=True)
        images = to_card(crops, context.card)
        return SyntheticBatch(images, _guesses(context.teacher, images))


class OtherDatasetOptions(StageOptions):
    """Options of `other-dataset`."""

    dataset: str = Field("cifar10", description="the dataset whose training images are used, without their labels")
    batch_size: int = Field(256, ge=1, description="images in a round")


class OtherDataset(Synthesizer[OtherDatasetOptions]):
    """Unlabeled images of another dataset; the target is the teacher's guess."""

    Options = OtherDatasetOptions
    prior = "image"

    @classmethod
    def images_wanted(cls, options: OtherDatasetOptions, card: DatasetCard) -> str | None:
        """The other dataset."""
        return options.dataset

    def synthesize(self, round: Round) -> SyntheticBatch:
        """`batch_size` images, drawn with replacement."""
        context, given = self.context, self.context.images
        assert given is not None
        size, device = (self.options.batch_size,), context.device
        index = torch.randint(len(given), size, generator=context.generator, device=device).cpu()
        images = to_card(given[index].to(device).float() / 255, context.card)
        return SyntheticBatch(images, _guesses(context.teacher, images))


class RealDataOptions(StageOptions):
    """Options of `real-data`."""

    preview: int = Field(64, ge=1, description="images shown in the run's picture")


class RealData(Synthesizer[RealDataOptions]):
    """The real training images with their labels: a reference, not data-free."""

    Options = RealDataOptions
    prior = "data"
    stream = True

    @classmethod
    def images_wanted(cls, options: RealDataOptions, card: DatasetCard) -> str | None:
        """The run's own dataset."""
        return card.name

    def __init__(self, options: RealDataOptions, context: StageContext) -> None:
        super().__init__(options, context)
        assert context.images is not None and context.labels is not None
        self.images, self.labels = context.images.to(context.device), context.labels.to(context.device)

    def synthesize(self, round: Round) -> SyntheticBatch:
        """A few images, for the picture."""
        shown = slice(0, self.options.preview)
        return SyntheticBatch(self.images[shown].float() / 255, self.labels[shown])

    def sample(self, count: int) -> SyntheticBatch:
        """Images drawn with replacement, under the card's transform."""
        context = self.context
        index = torch.randint(len(self.images), (count,), generator=context.generator, device=context.device)
        images = crop_and_flip(self.images[index], context.card.transform, context.generator).float() / 255
        return SyntheticBatch(images, self.labels[index])


class CrossEntropy(Distiller[StageOptions]):
    """The targets alone, no teacher: with `real-data`, the student trained from scratch."""

    requires = frozenset({"targets"})

    def losses(self, student: Network, teacher: Network, batch: SyntheticBatch) -> dict[str, Tensor]:
        """`target`."""
        return {"target": F.cross_entropy(student(batch.images), batch.targets)}


@torch.no_grad()
def _guesses(teacher: Network, images: Tensor) -> Tensor:
    guesses: Tensor = teacher(images).argmax(dim=1)
    return guesses
