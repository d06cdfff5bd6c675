"""`leaderboard.csv` from every record of a results folder."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from dfkd_bench.errors import DfkdError
from dfkd_bench.leaderboard.table import build, write_csv
from dfkd_bench.no_gc import without_gc
from dfkd_bench.results.locks import locked
from dfkd_bench.results.records import Results

__all__ = ["update_leaderboard"]


def update_leaderboard(results: Results, report: Callable[[DfkdError], None]) -> tuple[pd.DataFrame, int]:
    """Write `leaderboard.csv` anew; the table, and how many records are damaged.

    Args:
        results: the folder.
        report: called with what is wrong with each record that is left out.

    Raises:
        DfkdError: the folder cannot be read or written.
    """
    damaged: list[DfkdError] = []
    # One at a time: of two commands that end together, the one that looked first must not write last.
    with locked(results.path, "leaderboard"):
        with without_gc():
            table = build(results.records(damaged.append))
        if len(table) or not damaged:
            write_csv(table, results.path / "leaderboard.csv")
    for error in damaged:
        report(error)
    return table, len(damaged)
