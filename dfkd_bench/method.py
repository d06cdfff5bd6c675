"""Methods as recipes: one stage of each kind, their options, a schedule, and presets. Plain data; imports no torch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

__all__ = ["SMALL", "STUDENT", "Method", "MethodKind", "Preset", "Prior", "Schedule", "StageChoice", "use"]

Prior = Literal["none", "text", "image", "data"]
"""Knowledge beyond the teacher: none; a language model; images or a generator learned from them; the real data."""

MethodKind = Literal["method", "null", "reference"]
"""What a recipe is there for: to be compared; to show what nothing gives; to show what the real data give."""


# No run comes near them: beyond is a slip of the finger, which must not end in a plan that fills the memory.
_MOST, _MOST_STEPS = 10_000_000, 1_000_000_000


# Fields of a schedule that are younger than the first records: with these values they say nothing, and the hashes of
# earlier runs stay what they were.
_ADDED = {"initial_images": None, "optimizer": "sgd", "growing": False}


class StageChoice(BaseModel):
    """A stage by name, with the options that differ from its defaults (in a run spec: all of them)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    options: dict[str, JsonValue] = Field(default_factory=dict)


def use(name: str, **options: JsonValue) -> StageChoice:
    """A stage by name with options: `use("cmi", steps=200)`."""
    return StageChoice(name=name, options=options)


class Schedule(BaseModel):
    """How long a method runs and how its student is optimized."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    warmup_rounds: int = Field(
        0, ge=0, le=_MOST, description="rounds that fill the bank before the student's first step"
    )
    initial_images: int | None = Field(
        None,
        ge=1,
        le=_MOST,
        description="the warm-up ends when the bank has so many, whatever its rounds; none: after warmup_rounds",
    )
    epochs: int = Field(
        ge=1, le=100_000, description="distillation epochs; the learning rate moves and the test is read once in each"
    )
    rounds_per_epoch: int = Field(1, ge=0, description="rounds in an epoch; 0 distills from the warm-up's bank alone")
    steps_per_epoch: int = Field(
        ge=1, le=_MOST, description="student steps in an epoch, shared evenly among its rounds"
    )
    batch_size: int = Field(ge=1, description="images in a student step")
    bank_capacity: int | None = Field(None, ge=1, description="most images kept, oldest dropped first; none: all")
    lr: float = Field(gt=0, description="the student's first learning rate")
    lr_schedule: Literal["cosine", "constant"] = Field(
        "cosine", description="how the learning rate goes over the epochs"
    )
    lr_min: float = Field(0.0, ge=0, description="where the cosine ends")
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD momentum; AdamW's first beta")
    nesterov: bool = Field(False, description="Nesterov momentum (SGD)")
    weight_decay: float = Field(
        1e-4, ge=0, description="L2 penalty of the student's weights; AdamW's is decoupled from the gradient"
    )
    optimizer: Literal["sgd", "adamw"] = Field("sgd", description="of the student: sgd, or adamw for transformers")
    growing: bool = Field(
        False, description="the n-th epoch has n times steps_per_epoch steps; else each has steps_per_epoch"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Schedule:
        if self.rounds_per_epoch > self.steps_per_epoch:
            raise ValueError("rounds_per_epoch must not exceed steps_per_epoch")
        if self.rounds_per_epoch == 0 and self.warmup_rounds == 0 and self.initial_images is None:
            raise ValueError("with no warm-up and no rounds in the epochs nothing would be synthesized")
        if self.initial_images is not None and self.warmup_rounds:
            raise ValueError("initial_images says how long the warm-up is, so warmup_rounds must be 0 beside it")
        if self.bank_capacity is not None and (self.initial_images or 0) > self.bank_capacity:
            raise ValueError("initial_images must not exceed bank_capacity")
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError(f"Nesterov momentum is SGD's: with {self.optimizer}, nesterov must be false")
        if self.steps_until(self.epochs) > _MOST_STEPS:
            grown = " as they grow" if self.growing else ""
            raise ValueError(f"epochs times steps_per_epoch{grown} must not exceed {_MOST_STEPS:,}")
        return self

    def steps_in(self, epoch: int) -> int:
        """Student steps in an epoch, counted from 0."""
        return self.steps_per_epoch * (epoch + 1 if self.growing else 1)

    def steps_until(self, epochs: int) -> int:
        """Student steps of the first `epochs` epochs together."""
        return self.steps_per_epoch * (epochs * (epochs + 1) // 2 if self.growing else epochs)

    @model_serializer(mode="wrap")
    def _as_ever(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = dump(self)
        return {name: value for name, value in plain.items() if name not in _ADDED or value != _ADDED[name]}


#: How a student is optimized where all methods have the same one.
STUDENT: dict[str, Any] = {
    "lr": 0.1,
    "lr_schedule": "cosine",
    "lr_min": 0.0,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 1e-4,
    "optimizer": "sgd",
}
#: The student's part of every preset named `small`: the same for all methods, 3,000 steps of 128 images.
SMALL: dict[str, Any] = {"epochs": 10, "steps_per_epoch": 300, "growing": False, "batch_size": 128, **STUDENT}


class Preset(BaseModel):
    """Settings laid over a recipe. Later matching presets of one name lie over earlier ones.

    A stage with the name that is already chosen adds to its options; one with another name takes its place.
    `dataset`, `pair` and `teacher`, where given, restrict the preset to them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dataset: str | None = None
    pair: str | None = None
    teacher: str | None = None
    synthesizer: StageChoice | None = None
    augmenter: StageChoice | None = None
    filter: StageChoice | None = None
    distiller: StageChoice | None = None
    schedule: dict[str, Any] = Field(default_factory=dict)

    def matches(self, name: str, dataset: str, pair: str) -> bool:
        """Whether it applies to a run; `pair` is written TEACHER:STUDENT."""
        teacher = pair.partition(":")[0]
        wanted = ((self.dataset, dataset), (self.pair, pair), (self.teacher, teacher))
        return self.name == name and all(asked in (None, given) for asked, given in wanted)


class Method(BaseModel):
    """A named recipe.

    `paper` is an arXiv identifier, `bibtex` the entry of the paper to cite, `note` what a user should know of its
    source. A leaderboard ranks the kind `method` alone and sets null baselines and references apart. `schedule` holds
    fields of `Schedule`; what neither it nor the preset gives has the default there.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    kind: MethodKind = "method"
    paper: str | None = None
    bibtex: str | None = None
    synthesizer: StageChoice
    augmenter: StageChoice = StageChoice(name="none")
    filter: StageChoice = StageChoice(name="all")
    distiller: StageChoice = StageChoice(name="kd")
    schedule: dict[str, Any] = Field(default_factory=dict)
    presets: tuple[Preset, ...] = ()
    note: str | None = None

    def preset_names(self) -> list[str]:
        """Names of its presets, in order."""
        return list(dict.fromkeys(preset.name for preset in self.presets))
