"""What a table needs of a record: read without its curve, which is most of it. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dfkd_bench.errors import DfkdError
from dfkd_bench.method import Prior
from dfkd_bench.records import Accuracy, BankReport, Status, TeacherReport
from dfkd_bench.spec import RunSpec

__all__ = ["Entry", "Place", "entries", "read_entry"]


class Place(BaseModel):
    """Where a run ran."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    hardware: str
    precision: str


class Entry(BaseModel):
    """A record without its curve and what else no table shows. The names are the record's."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run: str
    spec: RunSpec
    status: Status
    reason: str | None = None
    accuracy: Accuracy | None = None
    priors: dict[str, Prior]
    teacher: TeacherReport
    bank: BankReport
    cost: dict[str, dict[str, Any]]
    environment: Place


def read_entry(path: Path | str) -> Entry | None:
    """The entry of a record's file, None if there is no file.

    Raises:
        DfkdError: it is damaged, or belongs to another spec.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - a hundred thousand of them
            text = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DfkdError(f"cannot read {path} ({error.strerror})") from error
    try:
        entry = Entry.model_validate_json(_without_curve(text))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "its JSON"
        raise DfkdError(f"{path} is no valid record ({where}: {first['msg']}): move it away and run again") from error
    if entry.run != entry.spec.hash:
        raise DfkdError(
            f"{path} says run {entry.run} but its spec's hash is {entry.spec.hash}: it was changed by hand"
        )
    return entry


def entries(folder: Path, report: Callable[[DfkdError], None]) -> Iterator[Entry]:
    """The entry of every record below a folder, in the order of their paths; `report` is told of damaged ones."""
    for path in _files(folder):
        try:
            entry = read_entry(path)
        except DfkdError as error:
            report(error)
            continue
        if entry is not None:
            yield entry


def _files(folder: Path) -> Iterator[str]:
    for where, folders, files in os.walk(folder):
        folders.sort()
        if "record.json" in files:
            yield os.path.join(where, "record.json")  # noqa: PTH118


def _without_curve(text: bytes) -> bytes:
    """The text with an empty curve, if it is laid out as we write it: there nothing else stands behind such a line.

    A string in JSON holds no line break, so what begins a line with one space is a field of the record itself.
    """
    start = text.find(b'\n "curve": [\n')
    end = text.find(b"\n ],\n", start)
    if start < 0 or end < 0:
        return text
    return text[:start] + b'\n "curve": [],\n' + text[end + len(b"\n ],\n") :]
