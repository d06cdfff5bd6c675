"""One thing in a results folder that does not fit. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dfkd_bench.texts import brief, visible

__all__ = ["Finding"]

_LONGEST = 600


@dataclass(frozen=True)
class Finding:
    """What does not fit, where.

    Attributes:
        path: the file or folder.
        field: the field, column or part of it, with a dot between a field and its own fields.
        text: what is wrong, beginning with a verb: `is 99, but ...`.
    """

    path: Path
    field: str
    text: str

    def __str__(self) -> str:
        """One printable sentence: what strangers wrote into a record cannot steer the terminal."""
        return brief(visible(f"{self.path}: {self.field} {self.text}"), _LONGEST)
