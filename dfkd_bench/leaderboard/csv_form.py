"""The leaderboard as CSV: every row, every column of `columns.COLUMNS`, nothing rounded."""

from __future__ import annotations

import csv
import io
import unicodedata

from dfkd_bench.leaderboard.columns import COLUMNS, Value
from dfkd_bench.leaderboard.model import Table

__all__ = ["csv_field", "csv_text"]


def csv_text(table: Table) -> str:
    """UTF-8 text, lines ended by a newline.

    A text that a spreadsheet would run as a formula has an apostrophe before it. Run hashes and JSON begin with none of
    those characters, and numbers are numbers.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([column.name for column in COLUMNS])
    for cell in table.cells:
        for row in cell.rows:
            writer.writerow([csv_field(column.value(cell, row)) for column in COLUMNS])
    return out.getvalue()


def csv_field(value: Value) -> Value:
    """A value as it stands in the file."""
    if isinstance(value, bool):
        return "true" if value else "false"
    # A spreadsheet takes the full-width signs for the usual ones. No text begins with white space.
    if isinstance(value, str) and unicodedata.normalize("NFKC", value[:1]) in {"=", "+", "-", "@", "|"}:
        return f"'{value}"
    return "" if value is None else value
