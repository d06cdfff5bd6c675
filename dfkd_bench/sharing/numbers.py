"""Numbers of a record that cannot be, and those that its curve contradicts. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from dfkd_bench.results.curves import CURVE_FILE, CurvePoint
from dfkd_bench.results.progress_file import accuracy_of
from dfkd_bench.results.records import Record
from dfkd_bench.sharing.findings import Finding

__all__ = ["check_curve", "check_numbers"]

_COUNTED = ("seconds", "images", "flops", "peak_memory")


def check_numbers(path: Path, record: Record) -> Iterator[Finding]:
    """What in a record cannot be, whatever its curve says."""
    for field, value in _percentages(record):
        if value is not None and not 0 <= value <= 100:
            yield Finding(path, field, f"is {value}, which is no percentage")
    yield from _outcome(path, record)
    yield from _bank(path, record)
    for phase, spent in record.cost.items():
        for name in _COUNTED:
            value = spent.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
                yield Finding(path, f"cost.{phase}.{name}", f"is {value!r}, which is no amount")
    if record.student_parameters is not None and record.student_parameters <= 0:
        yield Finding(path, "student_parameters", f"is {record.student_parameters}: no network has so few")


def _percentages(record: Record) -> Iterator[tuple[str, float | None]]:
    if record.accuracy is not None:
        for name in ("last", "last_top5", "oracle_best", "agreement"):
            yield f"accuracy.{name}", getattr(record.accuracy, name)
    if record.teacher is not None:
        yield "teacher.accuracy", record.teacher.accuracy
    yield "bank.target_agreement", record.bank.target_agreement


def _outcome(path: Path, record: Record) -> Iterator[Finding]:
    finished = record.status == "finished"
    if finished != (record.accuracy is not None):
        said = "missing" if finished else "there"
        yield Finding(path, "accuracy", f"is {said}, but the status is {record.status}")
    if finished == (record.reason is not None):
        said = "there" if finished else "missing"
        yield Finding(path, "reason", f"is {said}, but the status is {record.status}")
    if finished and record.teacher is None:
        yield Finding(path, "teacher", "is missing, but the run finished")
    if finished and record.last_good_epoch != record.spec.schedule.epochs:
        wanted = record.spec.schedule.epochs
        yield Finding(path, "last_good_epoch", f"is {record.last_good_epoch}, but the run finished all {wanted} epochs")
    if record.finished < record.started:
        yield Finding(path, "finished", "is before started")


def _bank(path: Path, record: Record) -> Iterator[Finding]:
    bank, capacity = record.bank, record.spec.schedule.bank_capacity
    for name in ("synthesized", "augmented", "kept", "in_bank", "drawn", "selected"):
        if getattr(bank, name) < 0:
            yield Finding(path, f"bank.{name}", f"is {getattr(bank, name)}: a count is never negative")
    if bank.kept > bank.augmented:
        yield Finding(path, "bank.kept", f"is {bank.kept}, but only {bank.augmented} were augmented")
    if bank.selected > bank.drawn:
        yield Finding(path, "bank.selected", f"is {bank.selected}, but only {bank.drawn} were drawn")
    if bank.in_bank > bank.synthesized + bank.kept:
        made = bank.synthesized + bank.kept
        yield Finding(path, "bank.in_bank", f"is {bank.in_bank}, but only {made} images were synthesized or kept")
    if capacity is not None and bank.in_bank > capacity:
        yield Finding(path, "bank.in_bank", f"is {bank.in_bank}, but the bank holds {capacity} at most")


def check_curve(path: Path, record: Record, curve: Sequence[CurvePoint]) -> Iterator[Finding]:
    """What in a record and its curve, which has the record's hash, contradicts the other or cannot be."""
    where, schedule = path.with_name(CURVE_FILE), record.spec.schedule
    for at, point in enumerate(curve):
        if point.epoch != at + 1:
            yield Finding(where, f"row {at + 1}, epoch", f"is {point.epoch}, not {at + 1}")
        if point.steps != (steps := schedule.steps_until(point.epoch)):
            yield Finding(where, f"row {at + 1}, steps", f"is {point.steps}: {point.epoch} epochs have {steps}")
        yield from _point(where, f"row {at + 1}", point)
    if (curve[-1].epoch if curve else 0) != record.last_good_epoch:
        yield Finding(path, "last_good_epoch", f"is {record.last_good_epoch}, but the curve has {len(curve)} epochs")
    if record.accuracy is not None and curve:
        expected = accuracy_of(curve)
        for name in type(expected).model_fields:
            said, computed = getattr(record.accuracy, name), getattr(expected, name)
            if said != computed:
                yield Finding(path, f"accuracy.{name}", f"is {said}, but {CURVE_FILE} gives {computed}")
    if record.status == "finished":
        yield from _fractions(path, record, curve)


def _point(where: Path, row: str, point: CurvePoint) -> Iterator[Finding]:
    for name in ("accuracy", "accuracy_top5", "agreement"):
        value = getattr(point, name)
        if not 0 <= value <= 100:
            yield Finding(where, f"{row}, {name}", f"is {value}, which is no percentage")
    if point.accuracy_top5 < point.accuracy:
        yield Finding(where, f"{row}, accuracy_top5", f"is {point.accuracy_top5}, below the accuracy {point.accuracy}")
    numbers: dict[str, Any] = {"lr": point.lr, **{f"loss:{name}": loss for name, loss in point.losses.items()}}
    for name, value in numbers.items():
        if not math.isfinite(value):
            yield Finding(where, f"{row}, {name}", f"is {value}")


def _fractions(path: Path, record: Record, curve: Sequence[CurvePoint]) -> Iterator[Finding]:
    """Each percentage is a whole number of test images, as many as each evaluation used, to four decimals."""
    looked = record.cost["evaluation"]["images"] if "evaluation" in record.cost else 0
    if not curve or not isinstance(looked, int) or looked <= 0 or looked % len(curve):
        return
    images = looked // len(curve)
    for at, point in enumerate(curve):
        for name in ("accuracy", "accuracy_top5", "agreement"):
            value = getattr(point, name)
            if not 0 <= value <= 100:
                continue  # said already
            hits = round(value * images / 100)
            if abs(round(100 * hits / images, 4) - value) > 1e-9:
                where = path.with_name(CURVE_FILE)
                yield Finding(where, f"row {at + 1}, {name}", f"is {value} %, which no number of {images} images is")
