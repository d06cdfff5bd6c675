"""Scalars, the picture and filters' histograms for TensorBoard: `tensorboard/` in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfkd_bench import DfkdError, Record, RunEvent
from dfkd_bench.results.scan import RUN_FOLDER

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

__all__ = ["TensorBoard"]

_CURVE = {
    "accuracy": "test/accuracy",
    "accuracy_top5": "test/accuracy_top5",
    "agreement": "test/agreement",
    "lr": "train/lr",
}
_BANK = ("synthesized", "augmented", "kept", "in_bank", "target_agreement")
_COST = ("seconds", "flops", "images", "peak_memory")


class TensorBoard:
    """`tensorboard --logdir RESULTS` shows each run under its hash. The x axis counts epochs.

    Args:
        results: the results folder.

    Raises:
        DfkdError: TensorBoard is not installed.
    """

    def __init__(self, results: Path) -> None:
        try:
            from torch.utils import tensorboard
        except ImportError as error:
            raise DfkdError(
                "the tracker 'tensorboard' needs TensorBoard: pip install 'dfkd-bench[tensorboard]'"
            ) from error
        self._make = tensorboard.SummaryWriter
        self._results = results
        self._writers: dict[str, SummaryWriter] = {}

    def hear(self, event: RunEvent) -> None:
        """Write what is a number or a picture; a teacher's training and runs of other processes are not ours."""
        if not RUN_FOLDER.fullmatch(event.run):
            return
        if event.kind == "started":
            self._writer(event.run).add_text("title", event.title)
        elif event.kind == "epoch" and event.run in self._writers:
            _point(self._writers[event.run], event.data)
        elif event.kind in ("finished", "failed"):
            # Some engines say of a run on another machine only how it ended: its record has the curve.
            heard = event.run in self._writers
            writer = self._writer(event.run)
            record = event.data.get("record")
            if record is not None:
                if not heard:
                    for point in record.curve():
                        _point(writer, point.model_dump())
                self._end(writer, record)
            self._writers.pop(event.run).close()

    def _writer(self, run: str) -> SummaryWriter:
        if run not in self._writers:
            self._writers[run] = self._make(str(self._results / run / "tensorboard"))
        return self._writers[run]

    def _end(self, writer: SummaryWriter, record: Record) -> None:
        step = record.last_good_epoch
        writer.add_text("spec", f"```json\n{json.dumps(record.spec.model_dump(mode='json'), indent=1)}\n```", step)
        writer.add_text(
            "outcome", record.status if record.reason is None else f"{record.status}: {record.reason}", step
        )
        for name in _BANK:
            if (value := getattr(record.bank, name)) is not None:
                writer.add_scalar(f"bank/{name}", value, step)
        for phase, spent in record.cost.items():
            for name in _COST:
                if name in spent:
                    writer.add_scalar(f"cost/{phase}/{name}", spent[name], step)
        for tag, histogram in _histograms(record.bank.model_dump(mode="json").get("stages") or {}):
            _add_histogram(writer, tag, histogram)
        if record.images is not None:
            from PIL import Image

            with Image.open(self._results / record.run / record.images) as picture:
                writer.add_image("images", np.asarray(picture.convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        """Close the files of runs that did not end."""
        while self._writers:
            self._writers.popitem()[1].close()


def _point(writer: SummaryWriter, point: Mapping[str, Any]) -> None:
    for name, tag in _CURVE.items():
        writer.add_scalar(tag, point[name], point["epoch"])
    for name, loss in point["losses"].items():
        writer.add_scalar(f"loss/{name}", loss, point["epoch"])
    writer.flush()


def _histograms(said: Mapping[str, Any], tag: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """What stages say of their scores, at any depth: `low` and `high`, and counts by bins of equal width by round."""
    if {"low", "high", "rounds"} <= said.keys():
        yield tag, said
        return
    for name, value in said.items():
        if isinstance(value, Mapping):
            yield from _histograms(value, f"{tag}/{name}".strip("/"))


def _add_histogram(writer: SummaryWriter, tag: str, said: Mapping[str, Any]) -> None:
    low, high = float(said["low"]), float(said["high"])
    calls = 0
    for entry in said["rounds"]:
        counts: Sequence[int] = entry["counts"]
        limits = np.linspace(low, high, len(counts) + 1)
        middles = (limits[1:] + limits[:-1]) / 2
        calls += entry["calls"]
        writer.add_histogram_raw(
            tag,
            min=low,
            max=high,
            num=sum(counts),
            sum=float(np.dot(counts, middles)),
            sum_squares=float(np.dot(counts, middles**2)),
            bucket_limits=limits[1:].tolist(),
            bucket_counts=list(counts),
            global_step=calls,
        )
        writer.add_scalar(f"{tag}/kept_percent", 100 * entry["kept"] / max(entry["seen"], 1), calls)
