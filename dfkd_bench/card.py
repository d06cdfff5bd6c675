"""What a method may know of a dataset. Never an image. Imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

__all__ = ["DatasetCard", "TeacherRecipe", "TrainTransform"]


class TrainTransform(BaseModel):
    """The random transform that the dataset is trained with, built without the dataset.

    An image is zero-padded by `padding` pixels, cropped back at a random place and, if `flip`, mirrored with
    probability one half.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    padding: int = Field(0, ge=0, description="zero padding on each side before the random crop, in pixels")
    flip: bool = Field(False, description="mirror left to right with probability one half")


class TeacherRecipe(BaseModel):
    """How a teacher is trained on real data: cosine to zero, cross-entropy, the card's transform.

    The field's released recipe does not reproduce its own teachers; the defaults are the usual ones for these networks.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(200, ge=1, description="passes over the training split")
    batch_size: int = Field(128, ge=1, description="images in a step")
    lr: float = Field(0.1, gt=0, description="first learning rate; goes to zero as a cosine")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum; AdamW's first beta")
    nesterov: bool = Field(True, description="Nesterov momentum (SGD)")
    weight_decay: float = Field(5e-4, ge=0, description="L2 penalty; AdamW's is decoupled from the gradient")
    warmup_epochs: int = Field(0, ge=0, description="epochs in which the learning rate rises from zero")
    seed: int = Field(0, ge=0, description="root seed of its random streams")
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="sgd, or adamw for transformers")

    @model_validator(mode="after")
    def _consistent(self) -> TeacherRecipe:
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError(f"Nesterov momentum is SGD's: with {self.optimizer}, nesterov must be false")
        return self

    @model_serializer(mode="wrap")
    def _as_ever(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # The field came later than the first teachers: where it says nothing, their hashes stay what they were.
        plain: dict[str, Any] = dump(self)
        if self.optimizer == "sgd":
            plain.pop("optimizer", None)
        return plain


class DatasetCard(BaseModel):
    """A dataset's description: all that a data-free method knows of it.

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
    teacher_recipe: TeacherRecipe = Field(
        TeacherRecipe(), description="how its teachers are trained where nobody asks for another way"
    )
    bibtex: str | None = Field(None, description="the entry of what to cite for the dataset")
    hint: str | None = Field(None, description="a sentence that `run` says where all runs are of this dataset")

    @model_validator(mode="after")
    def _consistent(self) -> DatasetCard:
        if len(self.class_names) != self.num_classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.num_classes} classes")
        if not len(self.mean) == len(self.std) == self.image_shape[0]:
            raise ValueError("mean and std need one value per channel")
        return self
