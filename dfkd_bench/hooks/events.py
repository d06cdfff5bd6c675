"""What happens in a run, as plugins hear it on the `dfkd_run_event` hook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict

if TYPE_CHECKING:
    from dfkd_bench.results.records import Record

__all__ = ["DATA", "EndData", "EpochData", "EventKind", "PhaseData", "ProgressData", "RunEvent", "StartedData"]

EventKind = Literal["started", "phase", "progress", "epoch", "finished", "failed"]


class StartedData(TypedDict):
    """A run begins, or resumes from its checkpoint.

    Attributes:
        spec: the run's, as plain data: `dfkd_bench.RunSpec.model_validate` reads it.
        folder: the run's, on the machine that does it.
    """

    spec: dict[str, Any]
    folder: str


class _Phase(TypedDict):
    phase: str


class PhaseData(_Phase, total=False):
    """A phase begins.

    Attributes:
        phase: `synthesizer`, `augmenter`, `distillation`, `teacher training`, or what a run waits for.
        round: of a synthesizer, counted from 0 over the whole run.
        epoch: of a distillation, counted from 1.
    """

    round: int
    epoch: int


class ProgressData(TypedDict):
    """So much of a phase is done; `phase` is a stage's kind where its `tick` says so."""

    phase: str
    done: int
    total: int


class EpochData(TypedDict):
    """An epoch is over: a point of the curve.

    Attributes:
        epoch: counted from 1.
        epochs: of the whole run.
        steps: the student's, since its first.
        lr: the learning rate in the epoch.
        losses: means over the epoch, by name.
        accuracy: on the test split, percent; so are `accuracy_top5` and the `agreement` with the teacher.
    """

    epoch: int
    epochs: int
    steps: int
    lr: float
    losses: dict[str, float]
    accuracy: float
    accuracy_top5: float
    agreement: float


class EndData(TypedDict):
    """A run is over: its record, and why it did not finish, if so."""

    reason: str | None
    record: Record


#: What `RunEvent.data` holds, by kind.
DATA: dict[EventKind, type] = {
    "started": StartedData,
    "phase": PhaseData,
    "progress": ProgressData,
    "epoch": EpochData,
    "finished": EndData,
    "failed": EndData,
}


@dataclass(frozen=True)
class RunEvent:
    """One thing that happened.

    Attributes:
        kind: what.
        run: the run's hash, or the teacher's name while a teacher is trained.
        title: what a person calls the run, such as `dda wrn40_2:wrn16_1 digits seed 0`.
        data: by kind a `StartedData`, `PhaseData`, `ProgressData`, `EpochData`, or, of `finished` and `failed`, an
            `EndData`.
    """

    kind: EventKind
    run: str
    title: str
    data: Mapping[str, Any] = field(default_factory=dict)
