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
        kind: `warmup` (one round that fills the bank), `augment` (of all that the warm-up left) or `distill` (a part of
            an epoch: a round, if the schedule has any in its epochs, and its student steps).
        images: a warm-up segment is done again until the bank has so many; None: once.
        epoch: counts from 0.
        steps: student steps.
        ends_epoch: the learning rate moves and the test is read after it.
    """

    kind: Literal["warmup", "augment", "distill"]
    images: int | None = None
    epoch: int = 0
    steps: int = 0
    ends_epoch: bool = False


def segments(schedule: Schedule) -> list[Segment]:
    """A whole run, in order."""
    if schedule.initial_images is None:
        plan = [Segment("warmup")] * schedule.warmup_rounds
    else:
        plan = [Segment("warmup", images=schedule.initial_images)]
    if plan:
        plan.append(Segment("augment"))
    parts = max(schedule.rounds_per_epoch, 1)
    for epoch in range(schedule.epochs):
        share, rest = divmod(schedule.steps_in(epoch), parts)
        for part in range(parts):
            last = part == parts - 1
            plan.append(Segment("distill", epoch=epoch, steps=share + (rest if last else 0), ends_epoch=last))
    return plan
