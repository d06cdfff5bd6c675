"""What one run leaves behind, and the results folder. Imports no torch."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from dfkd_bench.errors import DfkdError
from dfkd_bench.files import replacing, writable_folder
from dfkd_bench.method import Prior
from dfkd_bench.spec import RunSpec

__all__ = [
    "RUN_FOLDER",
    "Accuracy",
    "BankReport",
    "CurvePoint",
    "Environment",
    "Record",
    "Results",
    "Status",
    "TeacherReport",
]

#: What a run's folder is called: its spec's hash.
RUN_FOLDER = re.compile(r"[0-9a-f]{16}")
Status = Literal["finished", "diverged", "failed", "out-of-memory", "killed"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class CurvePoint(_Part):
    """The student after one distillation epoch. Accuracies are on the test split, in percent."""

    epoch: int = Field(description="counts from 1")
    steps: int = Field(description="student steps so far")
    lr: float = Field(description="learning rate in this epoch")
    losses: dict[str, float] = Field(description="mean of each named loss over the epoch's steps")
    accuracy: float
    accuracy_top5: float
    agreement: float = Field(description="percent of the test images on which student and teacher name the same class")


class Accuracy(_Part):
    """Test accuracy in percent. The last epoch is the result; the best one on the test set is an oracle's choice."""

    last: float
    last_top5: float
    oracle_best: float
    oracle_epoch: int
    agreement: float = Field(description="agreement with the teacher after the last epoch, percent")


class TeacherReport(_Part):
    """The teacher of a run, by hash."""

    model: str
    sha256: str = Field(description="of its weights: names, types, shapes and bytes")
    accuracy: float = Field(description="test accuracy, percent")
    source: str = Field(description="where it came from")


class BankReport(_Part):
    """What was synthesised and kept."""

    synthesised: int = 0
    augmented: int = 0
    kept: int = 0
    in_bank: int = 0
    target_agreement: float | None = Field(
        None, description="percent of the bank that the teacher gives its target class"
    )


class Environment(_Part):
    """Where and with what it ran."""

    device: str
    hardware: str
    precision: str
    threads: int
    platform: str
    versions: dict[str, str] = Field(description="Python and libraries")
    plugins: dict[str, str] = Field(description="distributions that provide plugins")


class Record(_Part):
    """One run: the spec, the outcome, the curve, the cost, the provenance."""

    schema_version: Literal[1] = 1
    run: str = Field(description="the spec's hash")
    spec: RunSpec
    status: Status
    reason: str | None = Field(None, description="why it did not finish")
    accuracy: Accuracy | None = None
    curve: tuple[CurvePoint, ...] = ()
    last_good_epoch: int = Field(description="the last epoch whose end the run reached, counted from 1; 0 if none")
    priors: dict[str, Prior] = Field(
        description="knowledge beyond the teacher, by stage, and `student` if its first weights bring some"
    )
    teacher: TeacherReport | None = Field(description="null, like the next two, if the run ended before it was known")
    student_parameters: int | None
    test_split: str | None = Field(description="hash of the test images and labels")
    bank: BankReport
    cost: dict[str, dict[str, Any]] = Field(
        description="by phase: seconds, images, forward, backward, flops, peak_memory"
    )
    environment: Environment
    started: datetime
    finished: datetime
    images: str | None = Field(None, description="the picture beside the record")

    @model_validator(mode="before")
    @classmethod
    def _ends_where_its_curve_ends(cls, plain: Any) -> Any:
        if isinstance(plain, dict) and "last_good_epoch" not in plain:
            curve = plain.get("curve") or [None]
            return {**plain, "last_good_epoch": getattr(curve[-1], "epoch", 0)}
        return plain

    def without_times(self) -> dict[str, Any]:
        """The record as plain data without clock readings and memory: the same for the same spec on one machine."""
        plain = self.model_dump(mode="json", exclude={"started", "finished"})
        for phase in plain["cost"].values():
            phase.pop("seconds", None)
            phase.pop("peak_memory", None)
        return plain


class Results:
    """A results folder: one folder per run, named by the spec's hash.

    Args:
        path: the folder; made on the first write.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def folder(self, run: str) -> Path:
        """Where a run's files lie."""
        return self.path / run

    def require_writable(self) -> None:
        """Make the folder.

        Raises:
            DfkdError: it cannot be made or written.
        """
        writable_folder(self.path, "results")

    def write(self, record: Record) -> Path:
        """Write a record, whole or not at all."""
        folder = writable_folder(self.folder(record.run), "run's")
        path = folder / "record.json"
        with replacing(path) as temporary:
            temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
        return path

    def read(self, run: str) -> Record | None:
        """The record of a run, None if there is none.

        Raises:
            DfkdError: the file is damaged or belongs to another spec.
        """
        path = self.folder(run) / "record.json"
        try:
            text = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DfkdError(f"cannot read {path} ({error.strerror})") from error
        return _parse(path, text)

    def records(self) -> Iterator[Record]:
        """Every record below the folder, sub-folders such as `reference/` included, in the order of their paths."""
        for path in sorted(self.path.rglob("record.json")):
            yield _parse(path, path.read_bytes())


def _parse(path: Path, text: bytes) -> Record:
    try:
        record = Record.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its JSON"
        raise DfkdError(f"{path} is no valid record ({where}: {first['msg']}): move it away and run again") from error
    if record.run != record.spec.hash:
        raise DfkdError(
            f"{path} says run {record.run} but its spec's hash is {record.spec.hash}: it was changed by hand"
        )
    return record


def schema() -> str:
    """The record's JSON schema, as text."""
    return json.dumps(Record.model_json_schema(), indent=1, sort_keys=True) + "\n"
