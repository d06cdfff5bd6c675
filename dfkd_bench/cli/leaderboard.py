"""`dfkd-bench leaderboard`: every record of a results folder as one table."""

from __future__ import annotations

from pathlib import Path

import typer

from dfkd_bench.cli.console import say
from dfkd_bench.cli.options import ResultsDir, examples

EXAMPLES = examples("dfkd-bench leaderboard", "dfkd-bench leaderboard --results results/reference/digits-quick")


def leaderboard(results: ResultsDir = Path("results")) -> None:
    """Make leaderboard.csv from every record in the results folder, and print it."""
    from dfkd_bench.cli.tables import print_table, report_damage
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.leaderboard.update import update_leaderboard
    from dfkd_bench.results.records import Results

    if not results.is_dir():
        raise DfkdError(f"there is no results folder {results}: run something first, or name another with --results")
    table, damaged = update_leaderboard(Results(results), report_damage)
    if table.empty and not damaged:
        raise DfkdError(
            f"there are no records in {results}: run something first, or name another folder with --results"
        )
    if not table.empty:
        print_table(table)
        say(f"{len(table)} rows in {results / 'leaderboard.csv'}")
    if damaged:
        raise typer.Exit(1)
