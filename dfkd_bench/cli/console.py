"""The one way to the screen. What plugins, files and folders are called is text here, never markup or control codes.

Long texts are cut in their middle where they are shown; records and tables in files keep them whole.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from dfkd_bench.texts import brief, visible

__all__ = ["Column", "complain", "console", "end_with", "raw", "say", "shown", "styled", "table", "tolerate"]


def shown(text: str) -> str:
    """A text as one line for the screen."""
    return visible(brief(text))


def say(text: str = "", *, err: bool = False) -> None:
    """Print one line; a line break within it is shown as `\\n`."""
    print(shown(text), file=sys.stderr if err else sys.stdout, flush=True)


def complain(text: object) -> None:
    """Print one line of what is wrong."""
    say(f"dfkd-bench: {text}", err=True)


def end_with(left_out: Sequence[object]) -> None:
    """Name what could not be used and was left out: exit status 1 if something was."""
    for problem in left_out:
        complain(f"left out: {problem}")
    if left_out:
        raise typer.Exit(1)


def raw(text: str) -> None:
    """Print a line for another program, as it is."""
    print(text)


def styled(*parts: str | tuple[str, str]) -> None:
    """Print one line of texts, each plain or with a style of rich's."""
    pairs = [(part, "") if isinstance(part, str) else part for part in parts]
    console().print(Text.assemble(*((shown(text), style) for text, style in pairs)), soft_wrap=True)


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    name: str
    right: bool = False
    no_wrap: bool = False


def table(title: str, columns: Sequence[str | Column], rows: Iterable[Sequence[str]]) -> None:
    """Print a table of texts under a title."""
    made = Table(title=title, title_justify="left")
    for column in (Column(one) if isinstance(one, str) else one for one in columns):
        made.add_column(column.name, justify="right" if column.right else "left", no_wrap=column.no_wrap)
    for row in rows:
        made.add_row(*row)
    console().print(made)


class _Plain(Console):
    """Takes every text as it is: no markup, no emoji codes, no colors by guess, no control characters."""

    def render_str(self, text: str, **how: Any) -> Text:
        return super().render_str(shown(text), **{**how, "markup": False, "emoji": False, "highlight": False})


def console(*, err: bool = False) -> Console:
    """Rich's console for what has bars or columns; if it is no terminal, wide enough that no column is cut."""
    out = _Plain(stderr=err)
    return out if out.is_terminal else _Plain(stderr=err, width=160)


def tolerate() -> None:
    """What a screen's encoding has no sign for is printed as its escape, in place of an error."""
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
