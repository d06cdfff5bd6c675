"""What stages may require of the things they run beside: one table. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["NEEDS", "Need"]


@dataclass(frozen=True)
class Need:
    """One thing that a stage may require.

    Attributes:
        what: ends the sentence "it needs ...".
        of: who must offer it.
        offer: what they call it.
    """

    what: str
    of: tuple[Literal["teacher", "student", "synthesizer"], ...]
    offer: str


#: By the names that `Stage.requires` uses.
NEEDS = {
    "batchnorm": Need("BatchNorm layers in the teacher", ("teacher",), "batchnorm"),
    "stages": Need("networks that name their stages", ("teacher", "student"), "stages"),
    "teacher-stages": Need("a teacher that names its stages", ("teacher",), "stages"),
    "targets": Need("images that name their classes", ("synthesizer",), "targets"),
}
