"""What one run leaves behind, and the results folder. Imports no torch."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from typing_extensions import TypedDict

from dfkd_bench.errors import DfkdError
from dfkd_bench.files import remove, replacing, writable_folder
from dfkd_bench.foreign import Count, Number, parse_json, parse_model, read_bytes, refusal
from dfkd_bench.method import Prior
from dfkd_bench.results.curves import CURVE_FILE, CurvePoint, curve_hash, curve_text, read_curve
from dfkd_bench.results.scan import RECORD_FILE, record_files
from dfkd_bench.spec import Memo, RecalledSpec

__all__ = [
    "Accuracy",
    "BankReport",
    "Cost",
    "Environment",
    "Record",
    "Results",
    "Status",
    "TeacherReport",
    "parse_record",
    "read_record",
    "write_record",
]

Status = Literal["finished", "diverged", "failed", "out-of-memory", "killed"]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Accuracy(_Part):
    """Test accuracy in percent. The last epoch is the result; the best one on the test set is an oracle's choice."""

    last: Number = Field(description="after the last epoch: the result")
    last_top5: Number = Field(description="the class is among the student's first five")
    oracle_best: Number = Field(description="of the epoch that is best on the test split")
    oracle_epoch: int = Field(description="that epoch, counted from 1")
    agreement: Number = Field(description="agreement with the teacher after the last epoch, percent")


class TeacherReport(_Part):
    """The teacher of a run, by hash."""

    model: str
    sha256: str = Field(description="of its weights, and of its normalization if that is not the dataset's")
    accuracy: Number = Field(description="test accuracy, percent")
    source: str = Field(description="where it came from")


class BankReport(_Part):
    """What was synthesized and kept."""

    synthesized: Count = Field(0, description="images made")
    augmented: Count = Field(0, description="variants made of them")
    kept: Count = Field(0, description="variants that the filter kept")
    in_bank: Count = Field(0, description="images in the bank at the end")
    drawn: Count = Field(0, description="images that the filter judged for the student's batches")
    selected: Count = Field(0, description="images of these that it selected")
    target_agreement: Number | None = Field(
        None, description="percent of the bank that the teacher gives its target class"
    )
    stages: dict[str, dict[str, JsonValue]] | None = Field(
        None, description="what stages say of their work, by kind: a filter's histogram, an augmenter's image sizes"
    )


class Cost(TypedDict):
    """What one phase spent, as the ledger counts it."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]

    seconds: Number
    images: Count
    forward: dict[str, Count]
    backward: dict[str, Count]
    flops: Count
    peak_memory: Count
    reserved_memory: NotRequired[Count | None]


class Environment(_Part):
    """Where and with what it ran."""

    device: str
    hardware: str
    precision: str
    threads: int
    platform: str
    versions: dict[str, str] = Field(description="Python and libraries")
    plugins: dict[str, str] = Field(description="distributions that provide plugins")
    tf32: bool | None = Field(None, description="whether float32 was computed in TF32; null on a CPU, which has none")
    deterministic: bool | None = Field(
        None, description="whether deterministic kernels were asked for; null on a CPU, whose kernels are"
    )
    compiled: bool = Field(False, description="whether teacher and student went through torch.compile")
    graphs: bool | None = Field(
        None, description="whether steps were to be replayed as CUDA graphs; null on a CPU and in earlier records"
    )
    notes: tuple[str, ...] = Field((), description="what else a reader of the numbers ought to know")
    code: dict[str, str] | None = Field(
        None, description="hashes of the source that ran, by package: the core's and its plugins'; null in earlier ones"
    )


_ENVIRONMENTS = Memo[Environment]()


def _recall(value: Any, validate: ValidatorFunctionWrapHandler) -> Environment:
    return _ENVIRONMENTS.get(value, lambda: cast("Environment", validate(value)))


class Record(_Part):
    """One run: the spec, the outcome, the cost, the provenance. Its curve is in a file beside it."""

    schema_version: Literal[2] = 2
    run: str = Field(description="the spec's hash")
    spec: RecalledSpec = Field(description="everything that decides the result")
    status: Status = Field(description="how it ended")
    reason: str | None = Field(None, description="why it did not finish")
    accuracy: Accuracy | None = Field(None, description="null if it did not finish")
    curve_sha256: str | None = Field(None, description="of curve.csv beside the record; null if no epoch ended")
    last_good_epoch: int = Field(description="the last epoch whose end the run reached, counted from 1; 0 if none")
    priors: dict[str, Prior] = Field(
        description="knowledge beyond the teacher, by stage, and `student` if its first weights bring some"
    )
    teacher: TeacherReport | None = Field(description="null, like the next two, if the run ended before it was known")
    student_parameters: int | None = Field(description="the student's parameters, counted")
    test_split: str | None = Field(description="hash of the test images and labels")
    bank: BankReport = Field(description="what was synthesized and kept")
    cost: dict[str, dict[str, Any]] = Field(
        description="by phase: seconds, images, forward, backward, flops, peak_memory, on CUDA reserved_memory"
    )
    # Many records have the same one.
    environment: Annotated[Environment, WrapValidator(_recall)] = Field(description="where and with what it ran")
    started: datetime = Field(description="when it began, in UTC")
    finished: datetime = Field(description="when it ended")
    images: str | None = Field(None, description="the picture beside the record")
    images_sha256: str | None = Field(None, description="of the picture's file; null in records of earlier versions")

    def __eq__(self, other: object) -> bool:
        # Where it lies does not make it another record.
        return isinstance(other, Record) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    # These two are set from outside; as private attributes, pydantic would make them anew for each of 100,000 records.
    @functools.cached_property
    def folder(self) -> Path | None:
        """Where it was read from; None if it was not."""
        return None

    @functools.cached_property
    def _curve(self) -> tuple[CurvePoint, ...] | None:
        return None

    def curve(self) -> tuple[CurvePoint, ...]:
        """The student after each epoch, read from `curve.csv`.

        Raises:
            DfkdError: the file cannot be read, or was changed after the run.
        """
        if self._curve is not None:
            return self._curve
        if self.curve_sha256 is None:
            return ()
        if self.folder is None:
            raise DfkdError(f"the curve of run {self.run} lies in its folder, and this record was not read from one")
        return read_curve(self.folder / CURVE_FILE, self.curve_sha256)

    def with_curve(self, curve: Sequence[CurvePoint]) -> Record:
        """The same record with this curve."""
        sha256 = curve_hash(curve_text(curve)) if curve else None
        record = self.model_copy(update={"curve_sha256": sha256})
        record.__dict__["_curve"] = tuple(curve)
        return record

    def without_times(self) -> dict[str, Any]:
        """The record as plain data without clock readings and memory: the same for the same spec on one machine."""
        plain = self.model_dump(mode="json", exclude={"started", "finished"})
        for phase in plain["cost"].values():
            phase.pop("seconds", None)
            phase.pop("peak_memory", None)
            phase.pop("reserved_memory", None)
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
        """Write a record and its curve, each whole or not at all; the record last: it says that the run is done."""
        return write_record(record, self.folder(record.run))

    def set_aside(self, record: Record) -> None:
        """Keep a copy of a record that finished, which a run that is done again may replace: `replaced/` beside it.

        Raises:
            DfkdError: the copy cannot be written.
        """
        if record.status != "finished":
            return
        folder = self.folder(record.run)
        copies = folder / "replaced" / f"{record.finished:%Y%m%dT%H%M%SZ}"
        writable_folder(copies, "run's")
        for name in (CURVE_FILE, record.images, RECORD_FILE):
            if name is not None and (folder / name).is_file():
                with replacing(copies / name) as temporary:
                    shutil.copyfile(folder / name, temporary)

    def read(self, run: str) -> Record | None:
        """The record of a run, None if there is none.

        Raises:
            DfkdError: the file is damaged or belongs to another spec.
        """
        path = self.folder(run) / RECORD_FILE
        record = read_record(path)
        if record is not None and record.run != run:
            raise DfkdError(f"{path} is the record of run {record.run}, not of {run}: move it away and run again")
        return record

    def records(self, report: Callable[[DfkdError], None] | None = None) -> Iterator[Record]:
        """Every record below the folder, sub-folders such as `reference/` included, in the order of their paths.

        Args:
            report: called with what is wrong with each damaged record, which is left out; None: that is raised.

        Raises:
            DfkdError: a folder or a record cannot be read, and no `report` is given.
        """
        for path, found in record_files(self.path):
            try:
                if isinstance(found, DfkdError):
                    raise found
                record = parse_record(path, found)
            except DfkdError as error:
                if report is None:
                    raise
                report(error)
                continue
            yield record


def write_record(record: Record, folder: Path) -> Path:
    """Write a record and its curve into a folder; see `Results.write`."""
    writable_folder(folder, "run's")
    curve = record.curve()
    if curve:
        with replacing(folder / CURVE_FILE) as temporary:
            temporary.write_text(curve_text(curve), encoding="utf-8", newline="")
    path = folder / RECORD_FILE
    with replacing(path) as temporary:
        temporary.write_text(record.model_dump_json(indent=1) + "\n", encoding="utf-8")
    if not curve:
        remove(folder / CURVE_FILE)
    return path


def read_record(path: Path) -> Record | None:
    """The record in a file, None if there is no file. One of schema 1 is read as if it were of schema 2.

    Raises:
        DfkdError: the file is damaged or belongs to another spec.
    """
    try:
        return parse_record(path, read_bytes(path))
    except FileNotFoundError:
        return None


def parse_record(path: Path, text: bytes) -> Record:
    """The record in a file's text.

    Raises:
        DfkdError: the text is no record, or belongs to another spec.
    """
    try:
        record = parse_model(Record, text, path, "record", _REMEDY)
    except DfkdError:
        older = _of_schema_1(path, text)
        if older is None:
            raise
        record = older
    if record.run != record.spec.hash:
        raise DfkdError(
            f"{path} says run {record.run} but its spec's hash is {record.spec.hash}: it was changed by hand"
        )
    record.__dict__["folder"] = path.parent
    return record


_REMEDY = "move it away and run again"
_OLD_SPELLING = "synthesised"  # in records of schema 1


class _Curve(BaseModel):
    """The part of a record of schema 1 that went into a file."""

    curve: tuple[CurvePoint, ...] = ()


def _of_schema_1(path: Path, text: bytes) -> Record | None:
    """A record as it was written before its curve had a file of its own; None if it is none."""
    try:
        plain = parse_json(text, str(path))
    except DfkdError:
        return None
    if not isinstance(plain, dict) or plain.get("schema_version") != 1:
        return None
    try:
        return _from_schema_1(plain)
    except ValidationError as error:
        raise refusal(error, path, "record", _REMEDY) from error


def _from_schema_1(plain: dict[str, Any]) -> Record:
    curve = _Curve.model_validate({"curve": plain.pop("curve", ())}).curve
    bank = plain.get("bank")
    if isinstance(bank, dict) and _OLD_SPELLING in bank:
        plain["bank"] = {"synthesized": bank.pop(_OLD_SPELLING), **bank}
    plain.setdefault("last_good_epoch", curve[-1].epoch if curve else 0)
    return Record.model_validate({**plain, "schema_version": 2}).with_curve(curve)


def schema() -> str:
    """The record's JSON schema, as text."""
    return json.dumps(Record.model_json_schema(), indent=1, sort_keys=True) + "\n"
