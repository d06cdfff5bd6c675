"""How far a run is, in a file beside its checkpoint: for `status`, and for the record of a run that was killed.

Imports no torch.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from dfkd_bench.errors import DfkdError, Report
from dfkd_bench.files import remove, replacing
from dfkd_bench.foreign import Number, read_model
from dfkd_bench.method import Prior
from dfkd_bench.results.curves import CurvePoint
from dfkd_bench.results.records import Accuracy, BankReport, Cost, Environment, Record, Results, Status, TeacherReport
from dfkd_bench.spec import RunSpec

__all__ = ["Progress", "ProgressFile", "accuracy_of", "read"]

_SECONDS = 5.0
_KNOWN = ("teacher", "student_parameters", "test_split", "bank", "cost")


class Progress(BaseModel):
    """All that a record would hold if the run ended now, and where it is.

    `done` of `segments` are behind it and the `part` of the present one that it knows of; at `going_since`, when all
    was there to begin or to resume, that was `resumed_at`. `phase_done` of `phase_total` steps of the phase.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    spec: RunSpec
    priors: dict[str, Prior]
    environment: Environment
    started: datetime
    updated: datetime
    teacher: TeacherReport | None = None
    student_parameters: int | None = None
    test_split: str | None = None
    curve: tuple[CurvePoint, ...] = ()
    bank: BankReport = BankReport()
    cost: dict[str, Cost] = {}
    segments: int = 0
    done: int = 0
    part: Number = 0.0
    resumed_at: Number = 0.0
    going_since: datetime | None = None
    phase: str | None = None
    phase_done: int = 0
    phase_total: int = 0
    pid: int
    host: str

    @classmethod
    def begin(cls, spec: RunSpec, priors: dict[str, Prior], environment: Environment) -> Progress:
        """Of a run that begins now, in this process."""
        now = datetime.now(UTC)
        host = socket.gethostname()
        return cls(
            spec=spec, priors=priors, environment=environment, started=now, updated=now, pid=os.getpid(), host=host
        )

    def knowing(self, before: Progress | Record | None) -> Progress:
        """With what an earlier start left: this one may end before it has read its checkpoint."""
        if before is None:
            return self
        curve = before.curve() if isinstance(before, Record) else before.curve
        known = {name: getattr(before, name) for name in _KNOWN}
        found = self.model_copy(update={"curve": curve, **known})
        then, now = before.environment, self.environment
        moved = () if then.hardware == now.hardware else (f"begun on {then.hardware}, resumed on {now.hardware}",)
        if then.compiled == now.compiled:
            return found.remarked(*then.notes, *moved)
        found = found.model_copy(update={"environment": now.model_copy(update={"compiled": True})})
        return found.remarked(*then.notes, *moved, "some of it was compiled, some was not")

    def remarked(self, *notes: str) -> Progress:
        """With notes on where it ran, each once."""
        all_notes = tuple(dict.fromkeys((*self.environment.notes, *notes)))
        return self.model_copy(update={"environment": self.environment.model_copy(update={"notes": all_notes})})

    def record(
        self, status: Status, reason: str | None, images: str | None = None, images_sha256: str | None = None
    ) -> Record:
        """The record of a run that ends here. Only one that finished has an accuracy."""
        return Record(
            run=self.spec.hash,
            spec=self.spec,
            status=status,
            reason=reason,
            accuracy=accuracy_of(self.curve) if status == "finished" and self.curve else None,
            last_good_epoch=self.curve[-1].epoch if self.curve else 0,
            priors=self.priors,
            teacher=self.teacher,
            student_parameters=self.student_parameters,
            test_split=self.test_split,
            bank=self.bank,
            cost=self.cost,
            environment=self.environment,
            started=self.started,
            finished=datetime.now(UTC),
            images=images,
            images_sha256=images_sha256,
        ).with_curve(self.curve)


def accuracy_of(curve: Sequence[CurvePoint]) -> Accuracy:
    """What a record says of a curve, which must have a point."""
    last, best = curve[-1], max(curve, key=lambda point: point.accuracy)
    return Accuracy(
        last=last.accuracy,
        last_top5=last.accuracy_top5,
        oracle_best=best.accuracy,
        oracle_epoch=best.epoch,
        agreement=last.agreement,
    )


def _path(results: Results, run: str) -> Path:
    return results.folder(run) / "progress.json"


def read(results: Results, run: str, report: Report = lambda error: None) -> Progress | None:
    """How far a run was when it last said so; None if there is no such file, or none that can be read.

    Args:
        results: the results folder.
        run: the spec's hash.
        report: called with what is wrong with the file.
    """
    path = _path(results, run)
    try:
        found = read_model(Progress, path, "progress file", "remove it")
    except FileNotFoundError:
        return None
    except DfkdError as error:
        report(error)
        return None
    if found.spec.hash != run:
        report(DfkdError(f"{path} is of run {found.spec.hash}, not of {run}: remove it"))
        return None
    return found


class ProgressFile:
    """The file of a run in this process: written at its start, at epoch ends, every few seconds between.

    Args:
        results: the results folder; the run's own must be there.
        first: how it begins.
    """

    def __init__(self, results: Results, first: Progress) -> None:
        self.now = first
        self._path = _path(results, first.spec.hash)
        self._written = time.monotonic()
        self._removed = False

    def hear(self, kind: str, data: Mapping[str, Any]) -> None:
        """Something happened in the run."""
        if kind == "phase":
            self.note(phase=data["phase"], phase_done=0, phase_total=0)
        elif kind == "progress":
            self.note(phase_done=data["done"], phase_total=data["total"])
        if kind == "epoch" or time.monotonic() - self._written >= _SECONDS:
            with suppress(DfkdError):  # the checkpoint and the record will say what is wrong
                self.write()

    def note(self, **fields: Any) -> None:
        """The run says something of itself. It is not asked: a stage's `tick` leads here, and must lead no further."""
        self.now = self.now.model_copy(update={"updated": datetime.now(UTC), **fields})

    def remark(self, note: str) -> None:
        """Something that a reader of the record ought to know of where it ran."""
        self.now = self.now.remarked(note)

    def write(self) -> None:
        """Write the file.

        Raises:
            DfkdError: it cannot be written, or something else has its name.
        """
        if self._removed:  # there is a record, and an event that comes late must not speak against it
            return
        self._written = time.monotonic()
        with replacing(self._path, durable=False) as temporary:
            temporary.write_text(self.now.model_dump_json(indent=1) + "\n", encoding="utf-8")

    def remove(self) -> None:
        """The run has a record now; nothing is written any more."""
        self._removed = True
        remove(self._path)
