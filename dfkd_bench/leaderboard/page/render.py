"""The leaderboard as one HTML file with everything inside it: no server, no network. Imports no torch.

Numbers and words of the table are those of `view`, as in every other form. The template writes the table, so that it
can be read without a script; the script sorts, filters, and draws charts and dialogs from the embedded data. Texts of
strangers pass through Jinja's escaping or the DOM's `textContent`, never as HTML, and the page's security policy runs
no script and loads nothing but what is in the file (and the pictures beside it where they are linked).
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dfkd_bench.leaderboard import view
from dfkd_bench.leaderboard.model import PHASES, Row, Table
from dfkd_bench.leaderboard.page.payload import payload
from dfkd_bench.leaderboard.page.pictures import Pictures, finder

__all__ = ["page_text"]

_HERE = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class _Part:
    """A phase in a bar: its name, where it begins and how long it is, in percent of the bar."""

    phase: str
    start: float
    length: float


def page_text(
    table: Table,
    root: Path,
    pictures: Pictures = Pictures.embed,
    page: Path = Path(),
    report: Callable[[str], None] | None = None,
) -> str:
    """The page.

    Args:
        table: the leaderboard.
        root: the results folder, where curves and pictures lie.
        pictures: what becomes of the pictures.
        page: the folder that the page will lie in, for links to pictures.
        report: called with a sentence for each curve or picture that cannot be shown; the page says it, too.
    """
    missing: list[str] = []
    data = payload(table, root, finder(pictures, root, page), missing.append)
    if report is not None:
        for sentence in missing:
            report(sentence)
    style, script = ((_HERE / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        policy=_policy(style, script, pictures),
        style=Markup(style),
        script=Markup(script),
        data=data,
        table=table,
        view=view,
        phases=PHASES,
        filters=_filters(table),
        texts=_texts,
        parts=_parts,
        missing=missing,
        pictures=any(run["picture"] for row in data["rows"] for run in row["runs"]),
    )


def _policy(style: str, script: str, pictures: Pictures) -> str:
    images = "data: 'self' file:" if pictures is Pictures.link else "data:"
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src {images}; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _filters(table: Table) -> dict[str, list[Any]]:
    rows = list(table.rows())
    return {
        "dataset": sorted({key.dataset for key, _ in rows}),
        "pair": sorted({key.pair for key, _ in rows}),
        "preset": sorted({key.preset for key, _ in rows}),
        "prior": sorted({row.prior for _, row in rows if row.prior is not None}),
    }


def _texts(row: Row) -> list[tuple[view.Column, str, str]]:
    """Each column's text in two: what stands aligned, and what follows it (an interval, a gap)."""
    found = []
    for column, text in zip(view.COLUMNS, view.cells_of(row), strict=True):
        head, rest = text, ""
        if column.name in {"Accuracy", "SD (pooled)", "Published", "n"} and " " in text:
            head, rest = text.split(" ", 1)
        found.append((column, head, rest))
    return found


def _parts(row: Row) -> list[_Part]:
    """The row's seconds by phase as parts of a bar."""
    spent = {} if row.costs is None else row.costs.seconds_by_phase
    total, start, found = sum(spent.values()), 0.0, []
    for phase in PHASES:
        length = 100 * spent.get(phase, 0.0) / total if total else 0.0
        if length:
            found.append(_Part(phase, round(start, 2), round(length, 2)))
        start += length
    return found
