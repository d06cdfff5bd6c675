"""The contract kit: plays a stage on tiny networks and says what it breaks.

For a plugin's author: `dfkd-bench check NAME`, or in a test

    from dfkd_bench.contract import assert_contract

    def test_my_synthesizer():
        assert_contract(MySynthesizer)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import ValidationError

from dfkd_bench.contract.breach import RUNS
from dfkd_bench.contract.checks import check_subject, checks_of
from dfkd_bench.contract.subject import Finding, Subject, Verdict, pair_lacks
from dfkd_bench.contract.world import Build, World
from dfkd_bench.environment import DeviceName, execution
from dfkd_bench.errors import DfkdError, unknown_name
from dfkd_bench.hooks.registry import STAGE_KINDS, Registry, StageKind, default_registry
from dfkd_bench.method import Method, StageChoice
from dfkd_bench.models.build import build_model, check_model
from dfkd_bench.spec import Pair
from dfkd_bench.stages.base import BASES, Stage, check_class, check_methods
from dfkd_bench.stages.options import StageOptions, validated

__all__ = ["Finding", "PrecisionName", "Verdict", "World", "assert_contract", "check_name", "check_stage", "checks_of"]

PrecisionName = Literal["fp32", "bf16"]


def check_stage(
    stage: type[Stage[Any]],
    *settings: Mapping[str, Any],
    name: str | None = None,
    defaults: bool = True,
    precision: PrecisionName = "fp32",
    pair: str | None = None,
    behavior: bool = True,
    device: DeviceName = "cpu",
    registry: Registry | None = None,
) -> Iterator[Finding]:
    """Check a stage class against the contract.

    Args:
        stage: a subclass of Synthesizer, Augmenter, Filter or Distiller.
        settings: options that it is tried with, beside its defaults if these are valid. Counts of steps and images
            are cut by their names (`steps`, `batch_size`, ...) to what takes moments.
        name: what the findings call it.
        defaults: try it with its defaults too.
        precision: of the networks.
        pair: networks of your own, TEACHER:STUDENT by name, with fresh weights; None: two tiny ones. Only the checks
            that depend on the networks are made on a pair.
        behavior: make the checks of behavior, too: does the student learn, do weights pull the right way.
        device: where it is played, `cpu`, `cuda` or `auto`. On a GPU what is to be the same twice may differ by
            rounding, and an option that has no effect may seem to have one.
        registry: where the pair's networks come from; by default all that is installed.

    Raises:
        DfkdError: it is no stage, its options are none, nothing to try, or there is no such network or device.
    """
    if not issubclass(stage, tuple(BASES.values())):
        raise DfkdError(f"{stage.__name__} is no Synthesizer, Augmenter, Filter or Distiller")
    check_class(stage)
    check_methods(stage)
    name = name or stage.__name__
    given = [
        *(_defaults(stage) if defaults else ()),
        *(validated(stage.Options, values, f"stage '{name}'", "option") for values in settings),
    ]
    if not given:
        raise DfkdError(f"'{name}' cannot be tried with its defaults: give options that it takes")
    bodies = None if pair is None else _bodies(pair, registry or default_registry())
    where = execution(device).device
    half = torch.bfloat16 if precision == "bf16" else torch.float32
    if bodies is not None:
        lacking = [pair_lacks(stage, options, bodies) for options in given]
        served = [options for options, lack in zip(given, lacking, strict=True) if lack is None]
        if not served:
            return iter([Finding(name, RUNS, "skipped", f"it {lacking[0]}, which {pair} lacks")])
        given = served
    return check_subject(Subject(name, stage, tuple(given), half, bodies, behavior, where))


def _bodies(pair: str, registry: Registry) -> tuple[Build, Build]:
    parsed = Pair.parse(pair)
    for name in (parsed.teacher, parsed.student):
        check_model(name, registry)
    return (
        lambda card: build_model(parsed.teacher, card, registry),
        lambda card: build_model(parsed.student, card, registry),
    )


def _defaults(stage: type[Stage[Any]]) -> list[StageOptions]:
    try:
        return [stage.Options()]
    except ValidationError:
        return []  # it has options without a default, or needs at least one of several


def assert_contract(
    stage: type[Stage[Any]],
    *settings: Mapping[str, Any],
    precision: PrecisionName = "fp32",
    pair: str | None = None,
) -> None:
    """For tests: `check_stage`, and an AssertionError that lists what failed."""
    findings = check_stage(stage, *settings, precision=precision, pair=pair)
    failed = [finding for finding in findings if finding.verdict == "fail"]
    assert not failed, "\n".join(map(str, failed))


def check_name(
    name: str,
    registry: Registry | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    precision: PrecisionName = "fp32",
    pair: str | None = None,
    behavior: bool = True,
    device: DeviceName = "cpu",
) -> Iterator[Finding]:
    """Everything registered under a name: a stage of any kind with the settings of all recipes, a method's stages.

    Args:
        name: of a method or a stage.
        registry: by default all that is installed.
        options: laid over every setting of a kind of stage; `{"synthesizer": {"steps": 5}}`.
        precision: of the networks.
        pair: networks of your own, as for `check_stage`.
        behavior: make the checks of behavior, too.
        device: where they are played, as for `check_stage`.

    Raises:
        DfkdError: there is no such name, device, network or stage to set, or an option is refused.
    """
    execution(device)
    registry = registry or default_registry()
    kinds = [kind for kind in STAGE_KINDS if name in registry.provided(kind)]
    methods = registry.provided("method")
    if not kinds and name not in methods:
        known = {*methods, *(stage for kind in STAGE_KINDS for stage in registry.provided(kind))}
        raise unknown_name("method or stage", name, known)
    todo: list[tuple[StageKind, str]] = [(kind, name) for kind in kinds]
    if name in methods:
        recipe: Method = registry.load("method", name)
        todo += [(kind, choice.name) for kind in STAGE_KINDS for choice in _choices(recipe, kind)]
    there = list(dict.fromkeys(kind for kind, _ in todo))
    for kind in options or {}:
        if kind not in there:
            raise unknown_name("stage in --set", kind, there)
    on = {"precision": precision, "pair": pair, "behavior": behavior, "device": device}
    return _check_all(list(dict.fromkeys(todo)), registry, options or {}, **on)


def _check_all(
    todo: list[tuple[StageKind, str]],
    registry: Registry,
    options: Mapping[str, Mapping[str, Any]],
    **on: Any,
) -> Iterator[Finding]:
    for kind, name in todo:
        stage = registry.load(kind, name)
        # An option of another stage of this kind is not for this one; one that none of them has is refused.
        others = {field for k, n in todo if (k, n) != (kind, name) and k == kind for field in _fields(registry, k, n)}
        own = _fields(registry, kind, name)
        known = {key: value for key, value in options.get(kind, {}).items() if key in own or key not in others}
        settings = [{**choice.options, **known} for choice in _uses(registry, kind, name)]
        yield from check_stage(
            stage,
            *([known] if known else []),
            *settings,
            name=f"{kind} {name}",
            defaults=not known,
            registry=registry,
            **on,
        )


def _fields(registry: Registry, kind: StageKind, name: str) -> set[str]:
    return set(registry.load(kind, name).Options.model_fields)


def _uses(registry: Registry, kind: StageKind, name: str) -> list[StageChoice]:
    """How the recipes of all plugins use a stage: where its options differ, it behaves differently."""
    found = []
    for provided in registry.provided("method").values():
        found += [choice for choice in _choices(provided.target, kind) if choice.name == name and choice.options]
    return [choice for index, choice in enumerate(found) if choice not in found[:index]]


def _choices(method: Any, kind: StageKind) -> list[StageChoice]:
    """A recipe's stage of one kind, as each preset has it."""
    base: StageChoice = getattr(method, kind)
    found = [base]
    for preset in method.presets:
        over: StageChoice | None = getattr(preset, kind)
        if over is not None:
            options = {**base.options, **over.options} if over.name == base.name else over.options
            found.append(StageChoice(name=over.name, options=options))
    return found
