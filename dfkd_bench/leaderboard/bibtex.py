"""BibTeX of the methods and datasets that a leaderboard shows. The entries are their plugins' own."""

from __future__ import annotations

import re
from collections.abc import Iterator

from dfkd_bench.leaderboard.build import Known
from dfkd_bench.leaderboard.model import Table
from dfkd_bench.leaderboard.text import plain

__all__ = ["bibtex_text", "is_entry"]

_START = re.compile(r"@[A-Za-z]+\s*\{\s*[A-Za-z0-9:._/+-]+\s*,")


def bibtex_text(table: Table, known: Known) -> str:
    """An entry for each, once, with a comment that says whose it is; a comment alone where there is none."""
    shown: dict[str, list[str]] = {}
    missing = []
    for name, entry, paper in _wanted(table, known):
        if entry is not None and is_entry(entry.strip()):
            shown.setdefault(entry.strip(), []).append(name)
        elif entry is not None:
            missing.append(f"{name}: its plugin's entry is no single BibTeX entry and is left out")
        else:
            missing.append(f"{name}: no entry" + (f", arXiv {paper}" if paper else ""))
    parts = [f"{_comment(', '.join(names))}\n{entry}\n" for entry, names in shown.items()]
    if missing:
        parts.append("\n".join(map(_comment, missing)) + "\n")
    return "\n".join(parts)


def is_entry(text: str) -> bool:
    """Whether a text is one BibTeX entry: a type, a key, and braces that are balanced and end it."""
    if not _START.match(text):
        return False
    depth, ends = 0, []
    for at, character in enumerate(text):
        depth += (character == "{") - (character == "}")
        if depth <= 0 and character == "}":
            ends.append(at)
    return depth == 0 and ends == [len(text) - 1] and text.count("@") == 1


def _wanted(table: Table, known: Known) -> Iterator[tuple[str, str | None, str | None]]:
    """Name, entry and arXiv id of each method and dataset that the table has."""
    for name in sorted({row.method for _, row in table.rows()}):
        method = known.method(name)
        found = (None, None) if method is None else (method.bibtex, method.paper)
        yield f"method {name}", *found
    for name in sorted({key.dataset for key, _ in table.rows()}):
        card = known.card(name)
        yield f"dataset {name}", None if card is None else card.bibtex, None


def _comment(text: str) -> str:
    # BibTeX knows no comment sign; it skips what stands between entries, up to the next @.
    return f"% {plain(text, 1000).replace('@', '(at)')}"
