"""A schedule as a list of segments: what a run does, in order, and where it may be interrupted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from dfkd_bench.method import Schedule

__all__ = ["Segment", "segments"]


@dataclass(frozen=True)
class Segment:
    """What is done between two possible checkpoints.

    Attributes:
        kind: `warmup` (one round that fills the bank), `augment` (of all that the warm-up left) or `distil` (a part of
            an epoch: a round, if the schedule has any in its epochs, and its student steps).
        round: counts all rounds of the run from 0.
        epoch: counts from 0.
        steps: student steps.
        ends_epoch: the learning rate moves and the test is read after it.
    """

    kind: Literal["warmup", "augment", "distil"]
    round: int = 0
    epoch: int = 0
    steps: int = 0
    ends_epoch: bool = False


def segments(schedule: Schedule) -> list[Segment]:
    """A whole run, in order."""
    plan = [Segment("warmup", round=index) for index in range(schedule.warmup_rounds)]
    if plan:
        plan.append(Segment("augment"))
    parts = max(schedule.rounds_per_epoch, 1)
    share, rest = divmod(schedule.steps_per_epoch, parts)
    for epoch in range(schedule.epochs):
        for part in range(parts):
            index = schedule.warmup_rounds + epoch * schedule.rounds_per_epoch + part
            last = part == parts - 1
            plan.append(Segment("distil", index, epoch, share + (rest if last else 0), last))
    return plan
