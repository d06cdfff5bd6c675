"""`leaderboard.csv` against the records below its folder. Imports no torch.

This is the one place of this package that knows how the table is made and what it calls a row's runs.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dfkd_bench.sharing.findings import Finding
from dfkd_bench.sharing.folders import usable_records

if TYPE_CHECKING:
    from dfkd_bench.leaderboard.build import Known

__all__ = ["check_table", "table_text"]

_RUNS = "runs"  # the column of the runs' hashes, separated by spaces
_ROUNDING = 1e-9  # of sums in another order, by another version of a library


def table_text(folder: Path, known: Known | None) -> str:
    """The table of all records below a folder that can be read, as the text of `leaderboard.csv`.

    Args:
        folder: the records' folder.
        known: what is installed, as `leaderboard.build.read_table` wants it.

    Raises:
        DfkdError: the folder cannot be read.
    """
    from dfkd_bench.leaderboard.build import build_table
    from dfkd_bench.leaderboard.csv_form import csv_text

    return csv_text(build_table(usable_records(folder), known, folder))


def check_table(path: Path, known: Known | None) -> Iterator[Finding]:
    """What does not fit between a table and the records; `known` is what is installed.

    Raises:
        DfkdError: the records' folder cannot be read.
    """
    try:
        text = path.read_bytes().decode()
    except OSError as error:
        yield Finding(path, "file", f"cannot be read ({error.strerror})")
        return
    except UnicodeDecodeError:
        yield Finding(path, "content", "is not UTF-8")
        return
    try:
        header, *rows = list(csv.reader(io.StringIO(text, newline=""), strict=True)) or [[]]
    except csv.Error as error:
        yield Finding(path, "content", f"is no CSV ({error})")
        return
    expected_header, *expected = list(csv.reader(io.StringIO(table_text(path.parent, known), newline="")))
    if header != expected_header:
        odd = sorted(set(header) ^ set(expected_header)) or ["their order"]
        yield Finding(
            path, "header", f"differs from this version's in {', '.join(odd)}: make it anew with dfkd-bench leaderboard"
        )
        return
    ragged = [at for at, row in enumerate(rows) if len(row) != len(header)]
    if ragged:
        yield Finding(path, f"row {ragged[0] + 1}", f"has {len(rows[ragged[0]])} cells, not {len(header)}")
        return
    yield from _compare(path, header, rows, expected)


def _compare(path: Path, header: list[str], rows: list[list[str]], expected: list[list[str]]) -> Iterator[Finding]:
    column = header.index(_RUNS)
    yield from _runs(path, column, rows, expected)
    if len(rows) != len(expected):
        yield Finding(path, "rows", f"are {len(rows)}, but the records give {len(expected)}")
    by_run = {run: row for row in expected for run in row[column].split()}
    seen: set[str] = set()
    for at, row in enumerate(rows):
        runs = row[column].split()
        again = seen.intersection(runs)
        seen.update(runs)
        if again:
            yield Finding(path, f"row {at + 1}, {_RUNS}", f"names {min(again)} a second time")
            continue
        wanted = next((by_run[run] for run in runs if run in by_run), None)
        if wanted is None:
            yield Finding(path, f"row {at + 1}", "belongs to no record")
            continue
        yield from _cells(path, at + 1, header, row, wanted)
    if len(rows) == len(expected) and [row[column] for row in rows] != [row[column] for row in expected]:
        yield Finding(path, "rows", "are in another order than the records give")


def _runs(path: Path, column: int, rows: list[list[str]], expected: list[list[str]]) -> Iterator[Finding]:
    named = {run: at for at, row in enumerate(rows) for run in row[column].split()}
    measured = {run for row in expected for run in row[column].split()}
    for run, at in named.items():
        if run not in measured:
            yield Finding(path, f"row {at + 1}, {_RUNS}", f"names run {run}, which has no usable record")
    for run in sorted(measured - named.keys()):
        yield Finding(path, _RUNS, f"leaves out run {run}, which has a record")


def _cells(path: Path, row: int, header: Sequence[str], found: list[str], wanted: list[str]) -> Iterator[Finding]:
    for name, cell, right in zip(header, found, wanted, strict=True):
        if name != _RUNS and not _same(cell, right):
            yield Finding(path, f"row {row}, {name}", f"is {cell!r}, but the records give {right!r}")


def _same(found: str, wanted: str) -> bool:
    if found == wanted:
        return True
    try:
        a, b = float(found), float(wanted)
    except ValueError:
        return False
    return abs(a - b) <= _ROUNDING * max(abs(a), abs(b))
