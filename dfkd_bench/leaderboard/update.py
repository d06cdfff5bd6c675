"""`leaderboard.csv` from every record of a results folder."""

from __future__ import annotations

from collections.abc import Callable

from dfkd_bench.errors import DfkdError
from dfkd_bench.files import replacing
from dfkd_bench.leaderboard.build import Known, read_table
from dfkd_bench.leaderboard.csv_form import csv_text
from dfkd_bench.leaderboard.model import Table
from dfkd_bench.results.locks import locked
from dfkd_bench.results.records import Results

__all__ = ["CSV_FILE", "update_leaderboard"]

CSV_FILE = "leaderboard.csv"


def update_leaderboard(results: Results, report: Callable[[DfkdError], None], known: Known | None = None) -> Table:
    """Write `leaderboard.csv` anew and return the table. Without any record the file stays as it is.

    Args:
        results: the folder.
        report: called with what is wrong with each record that is left out.
        known: what is installed; see `read_table`.

    Raises:
        DfkdError: the folder cannot be read or written.
    """
    # One at a time: of two commands that end together, the one that looked first must not write last.
    with locked(results.path, "leaderboard"):
        table = read_table(results, known, report)
        if table.cells:
            with replacing(results.path / CSV_FILE) as temporary:
                temporary.write_text(csv_text(table), encoding="utf-8", newline="")
    return table
