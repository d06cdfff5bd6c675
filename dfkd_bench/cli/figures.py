"""`dfkd-bench figures`: the leaderboard's figures as files for a paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dfkd_bench.cli.console import say
from dfkd_bench.cli.options import ResultsDir, examples

EXAMPLES = examples(
    "dfkd-bench figures --out figures",
    "dfkd-bench figures --results results/reference/digits-quick --out figures",
)


def figures(
    out: Annotated[Path, typer.Option(help="Folder for the PDF, SVG and PNG files.")],
    results: ResultsDir = Path("results"),
) -> None:
    """Draw accuracy against cost, learning curves, methods by pairs, and claims against measurements."""
    from dfkd_bench.cli.tables import report_damage
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.hooks.registry import default_registry
    from dfkd_bench.leaderboard.build import read_table
    from dfkd_bench.leaderboard.figures import write_figures
    from dfkd_bench.planning.installed import Installed
    from dfkd_bench.results.records import Results

    if not results.is_dir():
        raise DfkdError(f"there is no results folder {results}: run something first, or name another with --results")
    table = read_table(Results(results), Installed(default_registry()), report_damage)
    if not table.cells:
        raise DfkdError(
            f"there are no records in {results}: run something first, or name another folder with --results"
        )
    written = write_figures(table, results, out, lambda text: report_damage(DfkdError(text)))
    say(f"{len(written)} files in {out}")
