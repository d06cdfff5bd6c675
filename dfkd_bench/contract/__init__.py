"""The contract kit: plays a stage on tiny networks and says what it breaks.

For a plugin's author: `dfkd-bench check NAME`, or in a test

    from dfkd_bench.contract import assert_contract

    def test_my_synthesizer():
        assert_contract(MySynthesizer)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from dfkd_bench.contract.alternatives import shrunk
from dfkd_bench.contract.checks import CHECKS, Finding, Subject, Verdict, check_subject
from dfkd_bench.errors import DfkdError, unknown_name
from dfkd_bench.hooks.registry import STAGE_KINDS, Registry, StageKind, default_registry
from dfkd_bench.method import Method, StageChoice
from dfkd_bench.stages.base import BASES, Stage, check_class
from dfkd_bench.stages.options import StageOptions, validated

__all__ = ["CHECKS", "Finding", "Verdict", "assert_contract", "check_name", "check_stage"]


def check_stage(
    stage: type[Stage[Any]], *settings: Mapping[str, Any], name: str | None = None, defaults: bool = True
) -> Iterator[Finding]:
    """Check a stage class against the contract.

    Args:
        stage: a subclass of Synthesizer, Augmenter, Filter or Distiller.
        settings: options that it is tried with, beside its defaults if these are valid. Counts of steps and images
            are cut by their names (`steps`, `batch_size`, ...) to what takes moments.
        name: what the findings call it.
        defaults: try it with its defaults too.

    Raises:
        DfkdError: it is no stage, its options are none, or there are no settings to try.
    """
    if not issubclass(stage, tuple(BASES.values())):
        raise DfkdError(f"{stage.__name__} is no Synthesizer, Augmenter, Filter or Distiller")
    check_class(stage)
    name = name or stage.__name__
    tried = [
        *(_defaults(stage) if defaults else ()),
        *(validated(stage.Options, values, f"stage '{name}'", "option") for values in settings),
    ]
    small = tuple(dict.fromkeys(shrunk(options) for options in tried))
    if not small:
        raise DfkdError(f"'{name}' cannot be tried with its defaults: give options that it takes")
    return check_subject(Subject(name, stage, small))


def _defaults(stage: type[Stage[Any]]) -> list[StageOptions]:
    try:
        return [stage.Options()]
    except ValidationError:
        return []  # it has options without a default, or needs at least one of several


def assert_contract(stage: type[Stage[Any]], *settings: Mapping[str, Any]) -> None:
    """For tests: `check_stage`, and an AssertionError that lists what failed."""
    failed = [finding for finding in check_stage(stage, *settings) if finding.verdict == "fail"]
    assert not failed, "\n".join(map(str, failed))


def check_name(
    name: str, registry: Registry | None = None, options: Mapping[str, Mapping[str, Any]] | None = None
) -> Iterator[Finding]:
    """Everything registered under a name: a stage of any kind with the settings of all recipes, a method's stages.

    Args:
        name: of a method or a stage.
        registry: by default all that is installed.
        options: laid over every setting of a kind of stage; `{"synthesizer": {"steps": 5}}`.

    Raises:
        DfkdError: there is no such name, no such stage to set, or an option is refused.
    """
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
    return _check_all(list(dict.fromkeys(todo)), registry, options or {})


def _check_all(
    todo: list[tuple[StageKind, str]], registry: Registry, options: Mapping[str, Mapping[str, Any]]
) -> Iterator[Finding]:
    for kind, name in todo:
        stage = registry.load(kind, name)
        # An option of another stage of this kind is not for this one; one that none of them has is refused.
        others = {field for k, n in todo if (k, n) != (kind, name) and k == kind for field in _fields(registry, k, n)}
        own = _fields(registry, kind, name)
        known = {key: value for key, value in options.get(kind, {}).items() if key in own or key not in others}
        settings = [{**choice.options, **known} for choice in _uses(registry, kind, name)]
        yield from check_stage(stage, *([known] if known else []), *settings, name=f"{kind} {name}", defaults=not known)


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
