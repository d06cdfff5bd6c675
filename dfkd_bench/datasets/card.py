"""What a method may know of a dataset. Never an image. Imports no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["DatasetCard", "TrainTransform"]


class TrainTransform(BaseModel):
    """The random transform that the dataset is trained with, built without the dataset.

    An image is zero-padded by `padding` pixels, cropped back at a random place and, if `flip`, mirrored with
    probability one half.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    padding: int = Field(0, ge=0, description="zero padding on each side before the random crop, in pixels")
    flip: bool = Field(False, description="mirror left to right with probability one half")


class DatasetCard(BaseModel):
    """A dataset's description: all that a data-free method is told.

    Images are float32 [N, C, H, W] in [0, 1] everywhere; `mean` and `std` are per channel, in that range.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    num_classes: int = Field(ge=2)
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int] = Field(description="channels, height, width")
    mean: tuple[float, ...]
    std: tuple[float, ...]
    transform: TrainTransform = TrainTransform()

    @model_validator(mode="after")
    def _consistent(self) -> DatasetCard:
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.num_classes} classes")
        if not len(self.mean) == len(self.std) == self.image_shape[0]:
            raise ValueError("mean and std need one value per channel")
        return self
