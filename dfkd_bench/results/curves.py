"""A run's curve: the student after each epoch, in `curve.csv` beside the record. Imports no torch."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dfkd_bench.errors import DfkdError
from dfkd_bench.foreign import Count, Number, read_bytes

__all__ = ["CURVE_FILE", "CurvePoint", "curve_hash", "curve_text", "read_curve"]

CURVE_FILE = "curve.csv"
_LOSS = "loss:"


class CurvePoint(BaseModel):
    """The student after one distillation epoch. Accuracies are on the test split, in percent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: Count = Field(description="counts from 1")
    steps: Count = Field(description="student steps so far")
    lr: Number = Field(description="learning rate in this epoch")
    losses: dict[str, Number] = Field(description="mean of each named loss over the epoch's steps")
    accuracy: Number
    accuracy_top5: Number
    agreement: Number = Field(description="percent of the test images on which student and teacher name the same class")


_NUMBERS = tuple(name for name in CurvePoint.model_fields if name != "losses")


def curve_text(curve: Sequence[CurvePoint]) -> str:
    """The curve as CSV: a column for each number, and one named `loss:NAME` for each loss. Nothing is rounded."""
    losses = list(dict.fromkeys(name for point in curve for name in point.losses))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_NUMBERS, *(_LOSS + name for name in losses)])
    for point in curve:
        writer.writerow(
            [*(getattr(point, name) for name in _NUMBERS), *(point.losses.get(name, "") for name in losses)]
        )
    return out.getvalue()


def curve_hash(text: str) -> str:
    """SHA-256 of a curve's text, in hex."""
    return hashlib.sha256(text.encode()).hexdigest()


def read_curve(path: Path, sha256: str) -> tuple[CurvePoint, ...]:
    """The curve of a file.

    Args:
        path: the file.
        sha256: the hash that its record has of it.

    Raises:
        DfkdError: it cannot be read, or is not the record's.
    """
    try:
        data = read_bytes(path)
    except FileNotFoundError as error:
        raise DfkdError(f"the curve {path} is not there, but its record names it") from error
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise DfkdError(f"the curve {path} is not text in UTF-8: it was changed after the run") from error
    if curve_hash(text) != sha256:
        raise DfkdError(f"the curve {path} is not the one that its record names by hash: it was changed")
    try:
        return tuple(_point(row) for row in csv.DictReader(io.StringIO(text)))
    except (ValidationError, KeyError, AttributeError, csv.Error) as error:
        raise DfkdError(f"the curve {path} has other columns than a curve") from error


def _point(row: dict[str, str]) -> CurvePoint:
    losses = {name.removeprefix(_LOSS): value for name, value in row.items() if name.startswith(_LOSS) and value}
    return CurvePoint.model_validate({**{name: row[name] for name in _NUMBERS}, "losses": losses})
