"""Tables on the screen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from rich.table import Table as Grid
from rich.text import Text

from dfkd_bench.cli.console import complain, console

if TYPE_CHECKING:
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.leaderboard.build import Known
    from dfkd_bench.leaderboard.model import Cell, Table
    from dfkd_bench.results.records import Record

__all__ = ["print_comparison", "print_table", "report_damage"]


def report_damage(error: DfkdError) -> None:
    """Report which record is left out of a table, and why."""
    complain(f"left out: {error}")


def print_comparison(records: Sequence[Record], known: Known) -> None:
    """One table for these runs."""
    from dfkd_bench.leaderboard.build import build_table

    print_table(build_table(records, known))


# Nobody reads more rows on a screen, and they take seconds to lay out.
_MOST = 200


def print_table(table: Table) -> None:
    """The columns that matter most, a table for each cell; the CSV has all columns and rows."""
    from dfkd_bench.leaderboard import view
    from dfkd_bench.leaderboard.text import plain

    out, left = console(), _MOST
    for cell in table.cells:
        if left <= 0:
            break
        out.print(_grid(cell, left))
        left -= len(cell.rows)
        _say(view.notes(cell))
    total = sum(len(cell.rows) for cell in table.cells)
    if total > _MOST:
        _say([f"{total - _MOST} more rows are in leaderboard.csv."])
    for across in table.across:
        out.print()
        _say(view.across_lines(across))
    out.print()
    _say((*map(plain, table.notes), *view.LEGEND))


def _grid(cell: Cell, most: int) -> Grid:
    from dfkd_bench.leaderboard import view

    grid = Grid(title=Text(view.title(cell.key, cell.teacher_accuracy)), title_justify="left")
    for column in view.COLUMNS:
        grid.add_column(column.name, justify="right" if column.right else "left", no_wrap=column.name != "Method")
    for heading, rows in view.groups(cell):
        if heading != view.GROUPS["method"]:
            grid.add_section()
            grid.add_row("", Text(heading, style="italic"))
        for row in rows[: max(most, 0)]:
            grid.add_row(*(Text(text) for text in view.cells_of(row)))
        most -= len(rows)
    return grid


def _say(lines: Iterable[str]) -> None:
    out = console()
    for line in lines:
        out.print(Text(line))
