"""The leaderboard as Markdown (GitHub's): a table for each cell."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dfkd_bench.leaderboard import view
from dfkd_bench.leaderboard.model import Cell, Table

__all__ = ["escaped", "markdown_text"]

# Inline markup; what begins a list, heading or rule at the start of a line; what GitHub makes links and mentions of.
_SPECIAL = re.compile(r"[\\`*_\[\]|~$]|[<>&@]|^[-+#](?=[-+# ])|(?<=^\d)[.)](?= )|:(?=//)|(?<=\bwww)\.", re.IGNORECASE)
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;", ":": "&#58;", ".": "&#46;", ")": "&#41;"}


def markdown_text(table: Table) -> str:
    """The whole table, ended by a newline."""
    parts = ["\n".join(_cell(cell)) for cell in table.cells]
    parts += ["\n".join(f"* {escaped(line)}" for line in view.across_lines(across)) for across in table.across]
    parts.append("\n".join(f"* {escaped(line)}" for line in (*view.closing(table), *view.LEGEND)))
    return "\n\n".join(part for part in parts if part) + "\n"


def escaped(text: str) -> str:
    """Text that shows as it is, whatever it says: no markup, link, mention or HTML comes of it."""
    return _SPECIAL.sub(lambda found: _ENTITIES.get(found[0]) or f"\\{found[0]}", text)


def _cell(cell: Cell) -> Iterator[str]:
    yield f"### {escaped(view.title(cell.key, cell.teacher_accuracy))}"
    yield ""
    yield _line([column.name for column in view.COLUMNS])
    yield "|" + "|".join("---:" if column.right else "---" for column in view.COLUMNS) + "|"
    for number, (heading, rows) in enumerate(view.groups(cell)):
        if number or heading != view.GROUPS["method"]:
            yield _line(["", f"**{heading}**", *[""] * (len(view.COLUMNS) - 2)])
        for row in rows:
            yield _line([escaped(text) for text in view.cells_of(row)])
    yield ""
    yield from (f"* {escaped(note)}" for note in view.notes(cell))


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"
