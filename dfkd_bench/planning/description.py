"""What a method is made of: its stages and schedule, each option with its value in each preset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from dfkd_bench.card import TeacherRecipe
from dfkd_bench.datasets.access import open_dataset
from dfkd_bench.hooks.registry import STAGE_KINDS, Registry, StageKind
from dfkd_bench.method import Method, Schedule
from dfkd_bench.models.build import check_model
from dfkd_bench.planning.requests import Request, resolve
from dfkd_bench.spec import Pair, RunSpec, TeacherRef

if TYPE_CHECKING:
    from dfkd_bench.stages.base import Stage

__all__ = ["OptionRow", "Part", "describe", "option_rows"]


@dataclass(frozen=True, slots=True)
class OptionRow:
    """One option as text.

    Attributes:
        name: without the part's name.
        default: its default.
        values: its value in each preset of the part.
        meaning: its description.
    """

    name: str
    default: str
    values: tuple[str, ...]
    meaning: str


@dataclass(frozen=True, slots=True)
class Part:
    """A stage, or the schedule.

    Attributes:
        kind: the stage's kind, or `schedule`.
        name: the stage's name; None for the schedule.
        stage: its class; None for the schedule.
        presets: the presets that have it.
        everywhere: whether these are all that were asked for.
        options: its options.
    """

    kind: StageKind | str
    name: str | None
    stage: type[Stage[Any]] | None
    presets: tuple[str, ...]
    everywhere: bool
    options: tuple[OptionRow, ...]


def describe(
    recipe: Method, registry: Registry, *, dataset: str, pair: str, presets: Sequence[str] | None = None
) -> list[Part]:
    """The parts of a method, its schedule last.

    Args:
        recipe: the method.
        registry: who provides its stages.
        dataset: the dataset for which presets are read.
        pair: the pair for which they are, `TEACHER:STUDENT`.
        presets: which; by default all.

    Raises:
        DfkdError: a name is unknown, or a stage cannot be loaded.
    """
    dataset = open_dataset(dataset, registry).card.name
    parsed, teacher = Pair.parse(pair), TeacherRef(recipe=TeacherRecipe())
    for network in (parsed.teacher, parsed.student):
        check_model(network, registry)
    specs = {
        name: resolve(recipe, Request([recipe.name], [parsed], dataset, teacher, preset=name), parsed, 0, registry)
        for name in presets or recipe.preset_names()
    }
    parts = []
    for kind in STAGE_KINDS:
        for name, shared in _by_stage(specs, kind).items():
            stage = registry.load(kind, name)
            values = {p: dict(stage.Options.model_validate(getattr(specs[p], kind).options)) for p in shared}
            rows = option_rows(stage.Options, values)
            parts.append(Part(kind, name, stage, tuple(shared), len(shared) == len(specs), rows))
    schedule = option_rows(Schedule, {name: dict(spec.schedule) for name, spec in specs.items()})
    return [*parts, Part("schedule", None, None, tuple(specs), True, schedule)]


def option_rows(model: type[BaseModel], values: Mapping[str, Mapping[str, Any]]) -> tuple[OptionRow, ...]:
    """The fields of an options' model; `values` are those of each preset."""
    return tuple(
        OptionRow(
            name,
            "(required)" if info.is_required() else _text(info.default),
            tuple(_text(one[name]) for one in values.values()),
            info.description or "",
        )
        for name, info in model.model_fields.items()
    )


def _by_stage(specs: Mapping[str, RunSpec], kind: StageKind) -> dict[str, list[str]]:
    chosen: dict[str, list[str]] = {}
    for preset, spec in specs.items():
        chosen.setdefault(getattr(spec, kind).name, []).append(preset)
    return chosen


def _text(value: Any) -> str:
    return "none" if value is None else str(list(value) if isinstance(value, tuple) else value)
