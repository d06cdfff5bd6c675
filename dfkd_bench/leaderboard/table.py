"""The comparison table: one row for each method as it was set, dataset and pair, over its seeds."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, get_args

import pandas as pd
from scipy.stats import t as student_t

from dfkd_bench.files import replacing
from dfkd_bench.method import Prior
from dfkd_bench.records import Record
from dfkd_bench.spec import RunSpec, content_hash

__all__ = ["COLUMNS", "build", "settings_hash", "t_interval", "write_csv"]

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
    "synthesised",
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


def settings_hash(spec: RunSpec) -> str:
    """What a spec's runs of different seeds share: 8 hex digits of its hash without the seed."""
    return content_hash(spec.model_copy(update={"seed": 0}))[:8]


def t_interval(points: list[float], level: float = 0.95) -> float | None:
    """Half the width of Student's t interval of the mean; None for fewer than two points."""
    if len(points) < 2:
        return None
    quantile = float(student_t.ppf((1 + level) / 2, len(points) - 1))
    return quantile * stdev(points) / math.sqrt(len(points))


def build(records: Iterable[Record]) -> pd.DataFrame:
    """One row per method as it was set, dataset, pair and teacher; failures keep their row and are counted.

    Sorted by dataset, preset, pair and then by accuracy, best first; what has none comes last.
    """
    groups: dict[tuple[str, str], dict[str, Record]] = {}
    for record in records:
        key = (settings_hash(record.spec), _teacher_hash(record))
        groups.setdefault(key, {})[record.run] = record
    table = pd.DataFrame([_row(list(group.values())) for group in groups.values()], columns=list(COLUMNS))
    order = ["dataset", "preset", "protocol", "teacher", "student", "accuracy", "method", "settings"]
    ascending = [column != "accuracy" for column in order]
    return table.sort_values(order, ascending=ascending, na_position="last", ignore_index=True)


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write the table, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        table.to_csv(temporary, index=False)


def _row(records: list[Record]) -> dict[str, Any]:
    records.sort(key=lambda record: record.spec.seed)
    first, done = records[0], [record for record in records if record.accuracy is not None]
    spec = first.spec
    points = [record.accuracy.last for record in done if record.accuracy is not None]
    augmented = sum(record.bank.augmented for record in done)
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
        "prior": max(first.priors.values(), key=_PRIORS.index, default=None),
        "seeds": len(done),
        "failed": len(records) - len(done),
        "last_good_epoch": min((r.last_good_epoch for r in records if r.accuracy is None), default=None),
        "accuracy": _mean(points),
        "accuracy_ci95": t_interval(points),
        "accuracy_points": json.dumps(points),
        "oracle_best": _mean([record.accuracy.oracle_best for record in done if record.accuracy is not None]),
        "agreement": _mean([record.accuracy.agreement for record in done if record.accuracy is not None]),
        "teacher_accuracy": next((r.teacher.accuracy for r in records if r.teacher is not None), None),
        "synthesised": _mean([record.bank.synthesised for record in done]),
        "kept_percent": 100 * sum(record.bank.kept for record in done) / augmented if augmented else None,
        "bank": _mean([record.bank.in_bank for record in done]),
        "target_agreement": _mean([r.bank.target_agreement for r in done if r.bank.target_agreement is not None]),
        "distillation_samples": spec.schedule.epochs * spec.schedule.steps_per_epoch * spec.schedule.batch_size,
        **{f"seconds_{phase}": _mean([_cost(record, phase, "seconds") for record in done]) for phase in _PHASES},
        "tflops": _mean([sum(phase["flops"] for phase in record.cost.values()) / 1e12 for record in done]),
        "peak_memory_gib": max((phase["peak_memory"] / 2**30 for r in done for phase in r.cost.values()), default=None),
        "hardware": _all_of(record.environment.hardware for record in records),
        "precision": _all_of(record.environment.precision for record in records),
        "teacher_sha256": _teacher_hash(first) or None,
        "settings": settings_hash(spec),
        "runs": " ".join(record.run for record in records),
        "reasons": "; ".join(f"seed {r.spec.seed}: {r.status}: {r.reason}" for r in records if r.accuracy is None),
    }


def _teacher_hash(record: Record) -> str:
    """Of the teacher's weights; empty for a run that ended before it had trained one."""
    if record.teacher is not None:
        return record.teacher.sha256
    return record.spec.teacher.sha256 or ""


def _cost(record: Record, phase: str, what: str) -> float:
    return float(record.cost.get(phase, {}).get(what, 0))


def _mean(values: list[float] | list[int]) -> float | None:
    return fmean(values) if values else None


def _all_of(names: Iterable[str]) -> str:
    return " + ".join(sorted(set(names)))
