"""The comparison table: one row for each method as it was set, dataset and pair, over its seeds."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args

import pandas as pd
from scipy.special import stdtrit  # scipy.stats has it too, but takes a second to import

from dfkd_bench.files import replacing
from dfkd_bench.method import Prior
from dfkd_bench.results.records import Record
from dfkd_bench.spec import RunSpec

__all__ = ["COLUMNS", "build", "t_interval", "write_csv"]

_PRIORS: tuple[Prior, ...] = get_args(Prior)
_PHASES = ("synthesis", "augmentation", "filtering", "distillation", "evaluation")

#: The columns of `leaderboard.csv`, in order.
COLUMNS = (
    "dataset",
    "teacher",
    "student",
    "preset",
    "protocol",
    "method",
    "synthesizer",
    "augmenter",
    "filter",
    "distiller",
    "prior",
    "seeds",
    "failed",
    "last_good_epoch",
    "accuracy",
    "accuracy_ci95",
    "accuracy_points",
    "oracle_best",
    "agreement",
    "teacher_accuracy",
    "synthesized",
    "kept_percent",
    "bank",
    "target_agreement",
    "distillation_samples",
    *(f"seconds_{phase}" for phase in _PHASES),
    "tflops",
    "peak_memory_gib",
    "hardware",
    "precision",
    "teacher_sha256",
    "settings",
    "runs",
    "reasons",
)


def t_interval(points: list[float], level: float = 0.95) -> float | None:
    """Half the width of Student's t interval of the mean; None for fewer than two points."""
    if len(points) < 2:
        return None
    quantile = float(stdtrit(len(points) - 1, (1 + level) / 2))
    return quantile * stdev(points) / math.sqrt(len(points))


def build(records: Iterable[Record]) -> pd.DataFrame:
    """One row per method as it was set, dataset, pair and teacher; failures keep their row and are counted.

    Sorted by dataset, preset, protocol, pair and then by accuracy, best first; what has none comes last. Of each
    record only a few numbers are kept, so there may be very many.
    """
    groups: dict[tuple[str, str], _Group] = {}
    for record in records:
        key = (record.spec.settings, _teacher_hash(record))
        group = groups.get(key)
        if group is None:
            group = groups[key] = _Group(record.spec, key[0], key[1])
        group.points[record.run] = _point(record)
    table = pd.DataFrame([_row(group) for group in groups.values()], columns=list(COLUMNS))
    order = ["dataset", "preset", "protocol", "teacher", "student", "accuracy", "method", "settings"]
    ascending = [column != "accuracy" for column in order]
    return table.sort_values(order, ascending=ascending, na_position="last", ignore_index=True)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write the table, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


@dataclass(frozen=True, slots=True)
class _Point:
    """What a row wants to know of one run."""

    run: str
    seed: int
    status: str
    reason: str | None
    last: float | None
    oracle: float | None
    agreement: float | None
    last_good_epoch: int
    prior: Prior | None
    teacher_accuracy: float | None
    synthesized: int
    augmented: int
    kept: int
    in_bank: int
    target_agreement: float | None
    seconds: tuple[float, ...]
    tflops: float
    peak_memory: int | None
    hardware: str
    precision: str


@dataclass
class _Group:
    """The runs of one row, by hash."""

    spec: RunSpec
    settings: str
    teacher: str
    points: dict[str, _Point] = field(default_factory=dict)


def _point(record: Record) -> _Point:
    accuracy, bank, cost = record.accuracy, record.bank, record.cost
    return _Point(
        run=record.run,
        seed=record.spec.seed,
        status=record.status,
        reason=record.reason,
        last=None if accuracy is None else accuracy.last,
        oracle=None if accuracy is None else accuracy.oracle_best,
        agreement=None if accuracy is None else accuracy.agreement,
        last_good_epoch=record.last_good_epoch,
        prior=max(record.priors.values(), key=_PRIORS.index, default=None),
        teacher_accuracy=None if record.teacher is None else record.teacher.accuracy,
        synthesized=bank.synthesized,
        augmented=bank.augmented,
        kept=bank.kept,
        in_bank=bank.in_bank,
        target_agreement=bank.target_agreement,
        seconds=tuple(cost[phase]["seconds"] if phase in cost else 0.0 for phase in _PHASES),
        tflops=sum(phase["flops"] for phase in cost.values()) / 1e12,
        peak_memory=max((phase["peak_memory"] for phase in cost.values()), default=None),
        hardware=sys.intern(record.environment.hardware),
        precision=sys.intern(record.environment.precision),
    )


def _row(group: _Group) -> dict[str, Any]:
    points = sorted(group.points.values(), key=lambda point: point.seed)
    spec = group.spec
    done = [point for point in points if point.last is not None]
    accuracies = [point.last for point in done if point.last is not None]
    augmented = sum(point.augmented for point in done)
    peaks = [point.peak_memory / 2**30 for point in done if point.peak_memory is not None]
    return {
        "dataset": spec.dataset,
        "teacher": spec.pair.teacher,
        "student": spec.pair.student,
        "preset": spec.preset,
        "protocol": spec.protocol,
        "method": spec.method,
        "synthesizer": spec.synthesizer.name,
        "augmenter": spec.augmenter.name,
        "filter": spec.filter.name,
        "distiller": spec.distiller.name,
        "prior": max((p.prior for p in points if p.prior is not None), key=_PRIORS.index, default=None),
        "seeds": len(done),
        "failed": len(points) - len(done),
        "last_good_epoch": min((point.last_good_epoch for point in points if point.last is None), default=None),
        "accuracy": _mean(accuracies),
        "accuracy_ci95": t_interval(accuracies),
        "accuracy_points": json.dumps(accuracies),
        "oracle_best": _mean([point.oracle for point in done if point.oracle is not None]),
        "agreement": _mean([point.agreement for point in done if point.agreement is not None]),
        "teacher_accuracy": next((p.teacher_accuracy for p in points if p.teacher_accuracy is not None), None),
        "synthesized": _mean([point.synthesized for point in done]),
        "kept_percent": 100 * sum(point.kept for point in done) / augmented if augmented else None,
        "bank": _mean([point.in_bank for point in done]),
        "target_agreement": _mean([p.target_agreement for p in done if p.target_agreement is not None]),
        "distillation_samples": spec.schedule.epochs * spec.schedule.steps_per_epoch * spec.schedule.batch_size,
        **{f"seconds_{phase}": _mean([p.seconds[at] for p in done]) for at, phase in enumerate(_PHASES)},
        "tflops": _mean([point.tflops for point in done]),
        "peak_memory_gib": max(peaks, default=None),
        "hardware": _all_of(point.hardware for point in points),
        "precision": _all_of(point.precision for point in points),
        "teacher_sha256": group.teacher or None,
        "settings": group.settings,
        "runs": " ".join(point.run for point in points),
        "reasons": "; ".join(f"seed {p.seed}: {p.status}: {p.reason}" for p in points if p.last is None),
    }


def _teacher_hash(record: Record) -> str:
    """Of the teacher's weights; empty for a run that ended before it had trained one."""
    if record.teacher is not None:
        return record.teacher.sha256
    return record.spec.teacher.sha256 or ""


def _mean(values: list[float] | list[int]) -> float | None:
    return fmean(values) if values else None


def _all_of(names: Iterable[str]) -> str:
    return " + ".join(sorted(set(names)))
