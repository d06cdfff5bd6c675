"""Rows as evaluation results of the Hugging Face Hub: `.eval_results/*.yaml`, a file for each row. Imports no torch.

The format is that of https://huggingface.co/docs/hub/eval-results: entries with the benchmark's dataset and task, a
value, and attribution. Several scores on one benchmark stand in files of their own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import fmean
from typing import Any, get_args

from dfkd_bench.method import Prior
from dfkd_bench.results.records import Record

__all__ = ["HubDataset", "eval_results"]

_PRIORS: tuple[Prior, ...] = get_args(Prior)


@dataclass(frozen=True)
class HubDataset:
    """Where a dataset lies on the hub: its id and the commit that was used."""

    id: str
    revision: str


def eval_results(
    records: Iterable[Record], datasets: Mapping[str, HubDataset], task_id: str, source_url: str
) -> dict[str, str]:
    """The YAML files by name, one for each method as it was set, dataset, pair and teacher that has a finished run.

    Args:
        records: the runs.
        datasets: by our names; rows of others have no file, since an entry must name a dataset of the hub.
        task_id: the benchmark's task, as its `eval.yaml` names it.
        source_url: where the records are.
    """
    import yaml

    rows: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if record.accuracy is not None and record.teacher is not None and record.spec.dataset in datasets:
            rows.setdefault((record.spec.settings, record.teacher.sha256), []).append(record)
    return {
        f"dfkd-bench_{_file_name(of[0])}_{settings}_{teacher[:8]}.yaml": yaml.safe_dump(
            [_entry(of, datasets[of[0].spec.dataset], task_id, source_url)], sort_keys=False, allow_unicode=True
        )
        for (settings, teacher), of in sorted(rows.items())
    }


def _file_name(record: Record) -> str:
    text = f"{record.spec.dataset}_{record.spec.method}"
    return "".join(c if c.isalnum() or c in "-_" else "-" for c in text)


def _entry(of: list[Record], dataset: HubDataset, task_id: str, source_url: str) -> dict[str, Any]:
    return {
        "dataset": {"id": dataset.id, "task_id": task_id, "revision": dataset.revision},
        "value": round(fmean(record.accuracy.last for record in of if record.accuracy is not None), 4),
        "date": max(record.finished for record in of).date().isoformat(),
        "source": {"url": source_url, "name": "dfkd-bench records"},
        "notes": _notes(of),
    }


def _notes(of: list[Record]) -> str:
    spec, teacher = of[0].spec, of[0].teacher
    prior = max((prior for record in of for prior in record.priors.values()), key=_PRIORS.index, default="none")
    seeds = ", ".join(str(seed) for seed in sorted(record.spec.seed for record in of))
    parts = [
        f"{spec.method}, {spec.pair}",
        f"preset {spec.preset}, {spec.protocol} budget",
        f"test accuracy in percent after the last epoch, mean of seeds {seeds}",
        f"knowledge beyond the teacher: {prior}",
        f"teacher {teacher.accuracy} %" if teacher is not None else "",
    ]
    return "; ".join(parts)
