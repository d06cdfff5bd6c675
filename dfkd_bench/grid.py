"""From what a user asks for to run specs: methods resolved with presets, swaps and overrides, validated as a whole."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from dfkd_bench.errors import DfkdError, nearest, unknown_name
from dfkd_bench.method import Method, Schedule, StageChoice
from dfkd_bench.models import build_model, check_model
from dfkd_bench.plugins import STAGE_KINDS, Registry, StageKind
from dfkd_bench.spec import Pair, RunSpec, TeacherRef

if TYPE_CHECKING:
    from dfkd_bench.datasets.card import DatasetCard

__all__ = ["Override", "Request", "plan", "resolve", "validated"]


@dataclass(frozen=True)
class Override:
    """One option set by hand: `[METHOD:]stage.option=value` or `[METHOD:]schedule.field=value`."""

    part: str
    option: str
    value: Any
    method: str | None = None

    @classmethod
    def parse(cls, text: str) -> Override:
        """From the command line's form.

        Raises:
            DfkdError: it has not that form, or names no stage.
        """
        target, equals, value = text.partition("=")
        method, colon, path = target.rpartition(":")
        part, dot, option = path.partition(".")
        if not equals or not dot or not option or not part:
            raise DfkdError(f"'{text}' sets nothing: write stage.option=value, for example synthesizer.steps=500")
        parts = (*STAGE_KINDS, "schedule")
        if part not in parts:
            raise unknown_name("stage in --set", part, parts)
        return cls(part, option, value, method if colon else None)


@dataclass(frozen=True)
class Request:
    """What a user asks for; `plan` makes the product of methods, pairs and seeds."""

    methods: Sequence[str]
    pairs: Sequence[Pair]
    dataset: str
    teacher: TeacherRef
    preset: str = "quick"
    seeds: Sequence[int] = (0,)
    swaps: Mapping[StageKind, str] = field(default_factory=dict)
    overrides: Sequence[Override] = ()


def plan(request: Request, card: DatasetCard, registry: Registry) -> list[RunSpec]:
    """Every run of a request, each checked before any is started.

    Raises:
        DfkdError: a name is unknown, an option is refused, or a method cannot use a network.
    """
    methods = [registry.load("method", name) for name in request.methods]
    if any(seed < 0 for seed in request.seeds):
        raise DfkdError(f"a seed must not be negative: {min(request.seeds)} is")
    strange = [o.method for o in request.overrides if o.method is not None and o.method not in request.methods]
    if strange:
        raise unknown_name("method in --set", strange[0], request.methods)
    for pair in request.pairs:
        check_model(pair.teacher, registry)
        check_model(pair.student, registry)
    specs = [
        resolve(method, request, pair, seed, registry)
        for method in methods
        for pair in request.pairs
        for seed in request.seeds
    ]
    check = functools.cache(lambda name: frozenset(_offers(name, card, registry)))
    for spec in specs:
        _check_requirements(spec, check, registry)
    return list({spec.hash: spec for spec in specs}.values())


def resolve(method: Method, request: Request, pair: Pair, seed: int, registry: Registry) -> RunSpec:
    """One run: the recipe, the presets that match laid over it, then swaps, then overrides; all options spelled out.

    Raises:
        DfkdError: the preset, a stage or an option is unknown, or a value is refused.
    """
    if request.preset not in method.preset_names():
        raise unknown_name(f"preset of {method.name}", request.preset, method.preset_names())
    choices: dict[str, StageChoice] = {kind: getattr(method, kind) for kind in STAGE_KINDS}
    schedule = dict(method.schedule)
    for preset in method.presets:
        if preset.matches(request.preset, request.dataset, str(pair)):
            schedule.update(preset.schedule)
            for kind in STAGE_KINDS:
                choices[kind] = _lay_over(choices[kind], getattr(preset, kind))
    for swapped, name in request.swaps.items():
        registry.find(swapped, name)
        if choices[swapped].name != name:
            choices[swapped] = StageChoice(name=name)
    mine = [o for o in request.overrides if o.method in (None, method.name)]
    for override in mine:
        if override.part == "schedule":
            schedule[override.option] = override.value
    return RunSpec(
        method=method.name,
        **{kind: _spell_out(kind, choices[kind], mine, registry) for kind in STAGE_KINDS},
        schedule=validated(Schedule, schedule, f"schedule of {method.name}", "schedule"),
        dataset=request.dataset,
        pair=pair,
        teacher=request.teacher,
        seed=seed,
        preset=request.preset,
    )


def _lay_over(base: StageChoice, over: StageChoice | None) -> StageChoice:
    if over is None or over.name != base.name:
        return over or base
    return StageChoice(name=base.name, options={**base.options, **over.options})


def _spell_out(kind: StageKind, choice: StageChoice, overrides: Sequence[Override], registry: Registry) -> StageChoice:
    stage = registry.load(kind, choice.name)
    options: dict[str, Any] = dict(choice.options)
    options.update({o.option: o.value for o in overrides if o.part == kind})
    found = validated(stage.Options, options, f"{kind} '{choice.name}'", kind)
    return StageChoice(name=choice.name, options=found.model_dump(mode="json"))


ModelT = TypeVar("ModelT", bound=BaseModel)


def validated(model: type[ModelT], values: Mapping[str, Any], owner: str, part: str) -> ModelT:
    """A model of options from values, some of them as text.

    Args:
        model: the pydantic model.
        values: fields by name.
        owner: what the fields belong to, for the error.
        part: the word before the dot in --set.

    Raises:
        DfkdError: a name is unknown, a value is refused or not finite, or a required one is missing.
    """
    known = model.model_fields
    for name in values:
        if name not in known:
            near = nearest(name, known) or sorted(known)
            hint = ", ".join(near) if near else "it has none"
            raise DfkdError(
                f"the {owner} has no option '{name}': {'did you mean ' if near else ''}{hint}{'?' if near else ''}"
            )
    try:
        found = model.model_validate({name: _read(value, known[name].annotation) for name, value in values.items()})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "missing":
            raise DfkdError(f"the {owner} leaves '{where}' open: give it with --set {part}.{where}=VALUE") from error
        what = f"{where}={first['input']}" if where else str(dict(values))
        raise DfkdError(f"the {owner} refuses {what}: {first['msg']}") from error
    for name, value in found:
        if isinstance(value, float) and not math.isfinite(value):
            raise DfkdError(f"the {owner} refuses {name}={value}: it is not finite")
    return found


def _read(value: Any, annotation: Any) -> Any:
    """A value from the command line: lists are JSON, `none` is no value where allowed, else pydantic reads it."""
    if not isinstance(value, str):
        return value
    if value.lower() == "none" and type(None) in get_args(annotation):
        return None
    if value.startswith(("[", "{")):
        try:
            return json.loads(value)
        except ValueError:
            return value  # pydantic says what it wanted
    return value


def _offers(name: str, card: DatasetCard, registry: Registry) -> set[str]:
    from torch import nn

    body = build_model(name, card, registry)
    offered = set()
    if any(isinstance(module, nn.BatchNorm2d) for module in body.modules()):
        offered.add("batchnorm")
    if isinstance(getattr(body, "stages", None), tuple):
        offered.add("stages")
    return offered


def _check_requirements(spec: RunSpec, offers: Any, registry: Registry) -> None:
    sentences = {
        "batchnorm": ("BatchNorm layers in the teacher", [spec.pair.teacher]),
        "stages": ("networks that name their stages", [spec.pair.teacher, spec.pair.student]),
        "teacher-stages": ("a teacher that names its stages", [spec.pair.teacher]),
    }
    untold = not registry.load("synthesizer", spec.synthesizer.name).gives_targets
    for kind in STAGE_KINDS:
        choice = getattr(spec, kind)
        stage = registry.load(kind, choice.name)
        for need in sorted(stage.requires_with(stage.Options.model_validate(choice.options))):
            if need == "targets":
                if untold:
                    raise DfkdError(
                        f"{spec.method} cannot run: its {kind} '{choice.name}' needs images that name their classes, "
                        f"and the synthesizer '{spec.synthesizer.name}' makes none; choose another of the two"
                    )
                continue
            what, networks = sentences[need]
            lacking = next((name for name in networks if need.removeprefix("teacher-") not in offers(name)), None)
            if lacking is not None:
                raise DfkdError(
                    f"{spec.method} cannot run on {spec.pair}: its {kind} '{choice.name}' needs {what}, and {lacking} "
                    "has none; choose another network, or a method that does without"
                )
