"""From what a user asks for to run specs: methods resolved with presets, swaps and overrides, validated as a whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dfkd_bench.card import TeacherRecipe
from dfkd_bench.errors import DfkdError, Report, raise_it, unknown_name
from dfkd_bench.hooks.registry import STAGE_KINDS, Registry, StageKind
from dfkd_bench.method import Method, Schedule, StageChoice
from dfkd_bench.models.build import check_model
from dfkd_bench.planning.compatibility import network_facts, unmet, without_effect
from dfkd_bench.planning.protocols import SHARED, matched
from dfkd_bench.spec import PROTOCOLS, Pair, Protocol, RunSpec, TeacherRef
from dfkd_bench.stages.options import OptionError, read_options, validated

if TYPE_CHECKING:
    from dfkd_bench.card import DatasetCard

__all__ = ["PARTS", "Override", "Request", "plan", "recipe_with", "resolve"]

#: What the command line may set: stages and schedule of methods, and how the teacher is trained.
PARTS = (*STAGE_KINDS, "schedule", "teacher")

# What goes with each optimizer where a dataset's recipe has another one.
_USUAL: dict[str, dict[str, Any]] = {
    "sgd": {"lr": 0.1, "nesterov": True, "weight_decay": 5e-4},
    "adamw": {"lr": 1e-3, "nesterov": False, "weight_decay": 0.05},
}


@dataclass(frozen=True)
class Override:
    """One option set by hand: `[METHOD:]stage.option=value` or `[METHOD:]schedule.field=value`."""

    part: str
    option: str
    value: Any
    method: str | None = None

    @classmethod
    def parse(cls, text: str, parts: Sequence[str] = (*STAGE_KINDS, "schedule")) -> Override:
        """From the command line's form.

        Args:
            text: what follows `--set`.
            parts: what may be set.

        Raises:
            DfkdError: it does not have that form, or names no part.
        """
        target, equals, value = text.partition("=")
        method, colon, path = target.rpartition(":")
        part, dot, option = path.partition(".")
        if not equals or not dot or not option or not part:
            raise DfkdError(f"'{text}' sets nothing: write stage.option=value, for example synthesizer.steps=500")
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
    protocol: Protocol = "native"


def recipe_with(base: TeacherRecipe, given: Mapping[str, Any]) -> TeacherRecipe:
    """A recipe with other settings: the one that the same settings always mean, so that its teacher is found again.

    With another optimizer than the recipe's, learning rate, weight decay and momentum's kind are that one's usual ones
    unless they are given, too.

    Args:
        base: a dataset's own recipe.
        given: what is asked for otherwise, some of it as text.

    Raises:
        DfkdError: a setting is unknown or refused.
    """
    other = given.get("optimizer", base.optimizer)
    usual = {} if other == base.optimizer else _USUAL.get(str(other), {})
    return validated(TeacherRecipe, {**base.model_dump(), **usual, **given}, "recipe of a teacher", "teacher")


def plan(request: Request, card: DatasetCard, registry: Registry, report: Report = raise_it) -> list[RunSpec]:
    """Every run of a request, each checked before any is started.

    Args:
        request: what is asked for.
        card: the dataset's.
        registry: who provides methods, stages and networks.
        report: called with what a method's settings or needs refuse; by default the first of it is raised.

    Raises:
        DfkdError: a name is unknown, an option is refused, or a network cannot take the dataset's images or serve a
            method.
    """
    methods = [registry.load("method", name) for name in request.methods]
    if any(seed < 0 for seed in request.seeds):
        raise DfkdError(f"a seed must not be negative: {min(request.seeds)} is")
    strange = [o.method for o in request.overrides if o.method is not None and o.method not in request.methods]
    if strange:
        raise unknown_name("method in --set", strange[0], request.methods)
    for pair in request.pairs:
        for network in (pair.teacher, pair.student):
            check_model(network, registry)
            network_facts(network, card, registry)
    if request.protocol not in PROTOCOLS:
        raise unknown_name("protocol", request.protocol, PROTOCOLS)
    specs = []
    for method in methods:
        for pair in request.pairs:
            # Settings do not depend on the seed, and most of a large grid is seeds.
            spec = _resolve(method, request, pair, registry, report)
            if spec is None:
                continue
            for error in (*without_effect(spec, request.swaps, registry), *unmet(spec, card, registry)):
                report(error)
            specs += spec.with_seeds(request.seeds)
    return list({spec.hash: spec for spec in specs}.values())


def resolve(method: Method, request: Request, pair: Pair, seed: int, registry: Registry) -> RunSpec:
    """One run: the recipe, the presets that match laid over it, then swaps, the protocol's budget, then overrides.

    All options are spelled out.

    Raises:
        DfkdError: the preset, a stage or an option is unknown, or a value is refused.
    """
    spec = _resolve(method, request, pair, registry, raise_it)
    assert spec is not None  # whatever is wrong was raised
    return spec.with_seeds([seed])[0]


def _resolve(method: Method, request: Request, pair: Pair, registry: Registry, report: Report) -> RunSpec | None:
    """The run with seed 0; None if something was reported."""
    if request.preset not in method.preset_names():
        report(unknown_name(f"preset of {method.name}", request.preset, method.preset_names()))
        return None
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
    stream = registry.load("synthesizer", choices["synthesizer"].name).stream
    try:
        schedule = _scheduled(schedule, method, request, mine, stream, report)
    except DfkdError as error:
        report(error)
        return None
    parts = {kind: _spell_out(kind, choices[kind], mine, registry, report) for kind in STAGE_KINDS}
    settled = read_options(Schedule, schedule, f"schedule of {method.name}", "schedule", report)
    if settled is None or None in parts.values():
        return None
    return RunSpec(
        method=method.name,
        **parts,
        schedule=settled,
        dataset=request.dataset,
        pair=pair,
        teacher=request.teacher,
        seed=0,
        preset=request.preset,
        protocol=request.protocol,
    )


def _scheduled(
    schedule: dict[str, Any],
    method: Method,
    request: Request,
    overrides: Sequence[Override],
    stream: bool,
    report: Report,
) -> dict[str, Any]:
    """A method's schedule with the protocol's budget and then the overrides laid over it."""
    share = request.protocol == "matched"
    if share:
        schedule = matched(schedule, request.preset, stream=stream)
    for override in (o for o in overrides if o.part == "schedule"):
        option = override.option
        if share and override.method is not None and option in SHARED:
            sentence = f"the protocol matched gives every method the same {option}, so it cannot be set for "
            sentence += f"{method.name} alone: set it for all methods, or choose the protocol native"
            report(OptionError(sentence, "schedule", option))
        elif stream and option == "initial_images" and not share:
            sentence = f"{method.name} makes fresh images for every step and keeps none: it has no initial_images"
            report(OptionError(sentence, "schedule", option))
        elif not (stream and option == "initial_images"):
            schedule[option] = override.value
    named = {o.option for o in overrides if o.part == "schedule"}
    if schedule.get("initial_images") is not None and "warmup_rounds" not in named:
        schedule["warmup_rounds"] = 0
    steps = str(schedule.get("steps_per_epoch"))
    if share and "rounds_per_epoch" not in named and steps.isdecimal():
        # A generator that has its round at every step has it so in the shared budget, too.
        schedule["rounds_per_epoch"] = min(schedule.get("rounds_per_epoch", 1), max(int(steps), 1))
    return schedule


def _lay_over(base: StageChoice, over: StageChoice | None) -> StageChoice:
    if over is None or over.name != base.name:
        return over or base
    return StageChoice(name=base.name, options={**base.options, **over.options})


def _spell_out(
    kind: StageKind, choice: StageChoice, overrides: Sequence[Override], registry: Registry, report: Report
) -> StageChoice | None:
    stage = registry.load(kind, choice.name)
    options: dict[str, Any] = dict(choice.options)
    options.update({o.option: o.value for o in overrides if o.part == kind})
    found = read_options(stage.Options, options, f"{kind} '{choice.name}'", kind, report)
    return None if found is None else StageChoice(name=choice.name, options=found.model_dump(mode="json"))
