"""`dfkd-bench show METHOD`: every option, its default and what it means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from dfkd_bench.builtin import DEFAULT_DATASET
from dfkd_bench.cli.console import Column, say, styled, table
from dfkd_bench.cli.options import examples

if TYPE_CHECKING:
    from dfkd_bench.planning.description import Part

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
    from dfkd_bench.hooks.registry import default_registry
    from dfkd_bench.planning.description import describe

    registry = default_registry()
    recipe = registry.load("method", method)
    parts = describe(recipe, registry, dataset=dataset, pair=pair, presets=[preset] if preset else None)
    paper = f" (arXiv {recipe.paper})" if recipe.paper else ""
    styled((recipe.name, "bold"), f": {recipe.summary}{paper}")
    if recipe.note is not None:
        say(recipe.note)
    for part in parts:
        _print_part(part)


def _print_part(part: Part) -> None:
    title = part.kind if part.name is None else f"{part.kind} '{part.name}'"
    if not part.everywhere:
        title += f" (preset {', '.join(part.presets)})"
    if part.stage is not None and part.stage.prior != "none":
        title += f", prior: {part.stage.prior}"
    say()
    if not part.options:
        say(f"{title}: no options")
        return
    rows = [(f"{part.kind}.{row.name}", row.default, *row.values, row.meaning) for row in part.options]
    table(title, (Column("Option", no_wrap=True), "Default", *part.presets, "Meaning"), rows)
