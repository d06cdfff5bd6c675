"""`dfkd-bench show METHOD`: every option, its default and what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from dfkd_bench.builtin import DEFAULT_DATASET
from dfkd_bench.cli.console import Column, say, styled, table
from dfkd_bench.cli.options import examples

if TYPE_CHECKING:
    from dfkd_bench.spec import RunSpec

EXAMPLES = examples("dfkd-bench show dda", "dfkd-bench show fast --preset paper --pair resnet34:resnet18")


def show(
    method: Annotated[str, typer.Argument(help="A method of `dfkd-bench methods`.")],
    preset: Annotated[
        str | None, typer.Option(help="The preset whose values are shown; by default all of them.")
    ] = None,
    dataset: Annotated[str, typer.Option(help="The dataset for which presets are read.")] = DEFAULT_DATASET,
    pair: Annotated[str, typer.Option(help="The pair for which presets are read.")] = "wrn40_2:wrn16_1",
) -> None:
    """Show every option of a method with its values and meaning. Set one with run --set STAGE.OPTION=VALUE."""
    from dfkd_bench.card import TeacherRecipe
    from dfkd_bench.datasets.access import open_dataset
    from dfkd_bench.hooks.registry import STAGE_KINDS, default_registry
    from dfkd_bench.method import Schedule
    from dfkd_bench.models.build import check_model
    from dfkd_bench.planning.requests import Request, resolve
    from dfkd_bench.spec import Pair, TeacherRef

    registry = default_registry()
    recipe = registry.load("method", method)
    dataset = open_dataset(dataset, registry).card.name
    presets = [preset] if preset else recipe.preset_names()
    parsed, teacher = Pair.parse(pair), TeacherRef(recipe=TeacherRecipe())
    for network in (parsed.teacher, parsed.student):
        check_model(network, registry)
    specs = {
        name: resolve(recipe, Request([method], [parsed], dataset, teacher, preset=name), parsed, 0, registry)
        for name in presets
    }
    paper = f" (arXiv {recipe.paper})" if recipe.paper else ""
    styled((recipe.name, "bold"), f": {recipe.summary}{paper}")
    if recipe.note is not None:
        say(recipe.note)
    for kind in STAGE_KINDS:
        for name, shared in _by_stage(specs, kind).items():
            stage = registry.load(kind, name)
            prior = f", prior: {stage.prior}" if stage.prior != "none" else ""
            where = "" if len(shared) == len(specs) else f" (preset {', '.join(shared)})"
            _print_options(
                f"{kind} '{name}'{where}{prior}",
                kind,
                stage.Options,
                {p: dict(stage.Options.model_validate(getattr(specs[p], kind).options)) for p in shared},
            )
    _print_options("schedule", "schedule", Schedule, {name: dict(spec.schedule) for name, spec in specs.items()})


def _by_stage(specs: dict[str, RunSpec], kind: str) -> dict[str, list[str]]:
    chosen: dict[str, list[str]] = {}
    for preset, spec in specs.items():
        chosen.setdefault(getattr(spec, kind).name, []).append(preset)
    return chosen


def _print_options(title: str, part: str, model: Any, values: dict[str, dict[str, Any]]) -> None:
    say()
    if not model.model_fields:
        say(f"{title}: no options")
        return
    rows = []
    for name, info in model.model_fields.items():
        default = "(required)" if info.is_required() else _text(info.default)
        rows.append((f"{part}.{name}", default, *(_text(one[name]) for one in values.values()), info.description or ""))
    table(title, (Column("Option", no_wrap=True), "Default", *values, "Meaning"), rows)


def _text(value: Any) -> str:
    return "none" if value is None else str(list(value) if isinstance(value, tuple) else value)
