"""What stages may require of the things they run beside: one table. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["NEEDS", "Need", "NetworkFacts"]


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


@dataclass(frozen=True)
class NetworkFacts:
    """What is known of a network before anything runs.

    Attributes:
        batchnorm: channels of each of its BatchNorm2d layers.
        stage_inputs: channels that each of the stages that it names takes in; None if it names none.
        attention: how many attention modules it has.
    """

    batchnorm: tuple[int, ...]
    stage_inputs: tuple[int, ...] | None
    attention: int = 0


#: By the names that `Stage.requires` uses.
NEEDS = {
    "batchnorm": Need("BatchNorm layers in the teacher", ("teacher",), "batchnorm"),
    "stages": Need("networks that name their stages", ("teacher", "student"), "stages"),
    "teacher-stages": Need("a teacher that names its stages", ("teacher",), "stages"),
    "attention": Need("attention blocks as timm builds them in the teacher", ("teacher",), "attention"),
    "targets": Need("images that name their classes", ("synthesizer",), "targets"),
}
