"""Text and tables as MyST Markdown."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Sequence

__all__ = ["block", "docstring", "escaped", "inline", "table"]

# What is markup in docstrings: code, and a word that is stressed.
_MARKUP = re.compile(r"(`+[^`]+`+|(?<![\w*])\*\w+\*(?![\w*]))")
_SPECIAL = re.compile(r"([\\*_<>\[\]#|$~])")
_FAULT = re.compile(r"\b(B\d\d)\b")
_ARXIV = re.compile(r"\barXiv[: ]\s*(\d{4}\.\d{4,5})\b", re.IGNORECASE)


def inline(text: str) -> str:
    """Plain text with `code` in it on one line: nothing else of it is markup; faults and papers are linked."""
    return escaped(" ".join(text.split()), lambda part: _linked(_SPECIAL.sub(r"\\\1", part)))


def escaped(text: str, escape: Callable[[str], str]) -> str:
    """The text with `escape` applied to what is no markup."""
    parts = _MARKUP.split(text)
    return "".join(part if i % 2 else escape(part) for i, part in enumerate(parts))


def _linked(text: str) -> str:
    text = _FAULT.sub(r"[\1](/faults.md)", text)
    return _ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)


def docstring(thing: object) -> str:
    """The paragraphs of a docstring, its sections such as `Attributes:` left out."""
    text = inspect.getdoc(thing) or ""
    paragraphs = [part for part in text.split("\n\n") if not re.match(r"[A-Z][a-z ]+:\n ", part)]
    return "\n\n".join(inline(part) for part in paragraphs)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of Markdown cells."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines) + "\n"


def _cell(text: str) -> str:
    # Also inside of code a bar ends a cell; those that are escaped already stay.
    return re.sub(r"(?<!\\)\|", r"\\|", text)


def block(language: str, text: str) -> str:
    """A block of code."""
    return f"```{language}\n{text.strip()}\n```\n"
