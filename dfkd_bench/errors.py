"""Errors that are the user's to fix: one sentence each, what was wrong and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable

__all__ = ["DataFreeViolationError", "DfkdError", "Report", "first_line", "nearest", "raise_it", "unknown_name"]


class DfkdError(Exception):
    """A mistake that the user can fix. The command line prints its sentence and exits with status 2."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """What is wrong; several sentences where a whole file was checked."""
        return (str(self),)


class DataFreeViolationError(DfkdError):
    """A stage tried to open a dataset: a method gets the teacher and a dataset card, never an image."""


Report = Callable[[DfkdError], None]
"""Told of each mistake. The usual one raises it, which ends the work; one that returns learns of the others too."""


def raise_it(error: DfkdError) -> None:
    """The usual report: the first mistake ends the work."""
    raise error


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its type's name if it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def nearest(name: str, valid: Iterable[str], most: int = 3) -> list[str]:
    """The at most `most` valid names nearest to `name`, nearest first; empty if none is near."""
    return difflib.get_close_matches(name, list(valid), n=most, cutoff=0.5)


def unknown_name(kind: str, name: str, valid: Iterable[str]) -> DfkdError:
    """The error for a name that nobody provides: says the nearest names, or all of them if none is near."""
    names = sorted(valid)
    near = nearest(name, names)
    if near:
        hint = f"did you mean {' or '.join(near)}?"
    elif names:
        hint = f"known: {', '.join(names)}."
    else:
        hint = "none is known."
    return DfkdError(f"unknown {kind} '{name}': {hint}")
