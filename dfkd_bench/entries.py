"""What a table needs of a record: read without its curve, which is most of it. Imports no torch.

A curve that is damaged in its midst is not noticed here; `Results.read`, which a run asks, reads the whole.
"""

from __future__ import annotations

import collections
import itertools
import os
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from dfkd_bench.errors import DfkdError
from dfkd_bench.method import Prior
from dfkd_bench.records import RUN_FOLDER, Accuracy, BankReport, Status, TeacherReport
from dfkd_bench.spec import RunSpec, SeedFamily

__all__ = ["Entry", "Place", "Reader", "entries", "read_entry"]


class Place(BaseModel):
    """Where a run ran."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    hardware: str
    precision: str


class _Body(BaseModel):
    """An entry but for the spec."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    run: str
    status: Status
    reason: str | None = None
    accuracy: Accuracy | None = None
    last_good_epoch: int
    priors: dict[str, Prior]
    teacher: TeacherReport | None
    bank: BankReport
    cost: dict[str, dict[str, Any]]
    environment: Place


class _Whole(_Body):
    """An entry as it lies in a record that is not laid out as we write it."""

    spec: RunSpec


@dataclass(frozen=True, slots=True)
class Entry:
    """A record without its curve and what else no table shows. The names are the record's."""

    run: str
    spec: RunSpec
    status: Status
    reason: str | None
    accuracy: Accuracy | None
    last_good_epoch: int
    priors: dict[str, Prior]
    teacher: TeacherReport | None
    bank: BankReport
    cost: dict[str, dict[str, Any]]
    environment: Place


class Reader:
    """Reads entries. It remembers the specs that it met, since most records differ from another in the seed alone."""

    def __init__(self) -> None:
        self._families: dict[bytes, SeedFamily] = {}

    def read(self, path: Path | str, found: bytes | OSError | None = None) -> Entry | None:
        """The entry of a record's file, None if there is no file.

        Args:
            path: the file.
            found: what `_ends` gave of it, if it was asked already.

        Raises:
            DfkdError: it is damaged, or belongs to another spec.
        """
        try:
            if isinstance(found, OSError):
                raise found
            try:
                entry = self._parse(_ends(path) if found is None else found)
            except ValidationError:
                entry = self._parse(Path(path).read_bytes())  # laid out in another way, or damaged
        except FileNotFoundError:
            return None
        except OSError as error:
            raise DfkdError(f"cannot read {path} ({error.strerror})") from error
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "its JSON"
            raise DfkdError(
                f"{path} is no valid record ({where}: {first['msg']}): move it away and run again"
            ) from error
        if entry.run != entry.spec.hash:
            raise DfkdError(
                f"{path} says run {entry.run} but its spec's hash is {entry.spec.hash}: it was changed by hand"
            )
        return entry

    def _parse(self, text: bytes) -> Entry:
        """An entry from a record's text, of which curve and spec are cut out first if it is laid out as we write it.

        A string in JSON holds no line break, so what begins a line with one space is a field of the record itself,
        and ends at the next bracket that stands so.
        """
        start, end = _field(text, *_CURVE)
        if start >= 0:
            text = text[:start] + text[end - 1 :]
        start, end = _field(text, b'\n "spec": {\n', b"\n },\n")
        seed = _SEED.search(text, start, end) if start >= 0 else None
        if seed is None:
            whole = _Whole.model_validate_json(text)
            return _entry(whole, whole.spec)
        key = text[start : seed.start()] + text[seed.end() : end]
        if key not in self._families:
            spec = text[text.index(b"{", start) : end - 2]
            self._families[key] = SeedFamily(RunSpec.model_validate_json(spec))
        body = _Body.model_validate_json(text[:start] + text[end - 1 :])
        return _entry(body, self._families[key].member(int(seed[1])))


_CURVE = (b'\n "curve": [\n', b"\n ],\n")
_PIECE = 8192
_READERS = 8
_PORTION = 64
_SEED = re.compile(rb'\n  "seed": (\d+),')


def _field(text: bytes, opening: bytes, closing: bytes) -> tuple[int, int]:
    """Where a field begins and ends, line break and comma included; (-1, -1) if it is not there."""
    start = text.find(opening)
    end = text.find(closing, start) if start >= 0 else -1
    return (start, end + len(closing)) if end >= 0 else (-1, -1)


def _ends(path: Path | str) -> bytes:
    """A record's text; of a long one what stands before and after its curve, if it is laid out as we write it."""
    with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a hundred thousand of them
        size = os.fstat(file.fileno()).st_size
        if size > 3 * _PIECE:
            head = file.read(_PIECE)
            file.seek(size - _PIECE)
            tail = file.read()
            start, end = head.find(_CURVE[0]), tail.find(_CURVE[1])
            if start >= 0 and end >= 0:
                return head[:start] + tail[end + len(_CURVE[1]) - 1 :]
            file.seek(0)
        return file.read()


def _entry(body: _Body, spec: RunSpec) -> Entry:
    return Entry(
        body.run,
        spec,
        body.status,
        body.reason,
        body.accuracy,
        body.last_good_epoch,
        body.priors,
        body.teacher,
        body.bank,
        body.cost,
        body.environment,
    )


def read_entry(path: Path | str) -> Entry | None:
    """The entry of a record's file, None if there is no file.

    Raises:
        DfkdError: it is damaged, or belongs to another spec.
    """
    return Reader().read(path)


def entries(folder: Path, report: Callable[[DfkdError], None]) -> Iterator[Entry]:
    """The entry of every record below a folder, in the order of their paths; `report` is told of damaged ones.

    Raises:
        DfkdError: a folder cannot be read.
    """
    reader = Reader()
    for path, found in _read_ahead(_files(str(folder))):
        try:
            entry = reader.read(path, found)
        except DfkdError as error:
            report(error)
            continue
        if entry is not None:
            yield entry


def _read_ahead(paths: Iterator[str]) -> Iterator[tuple[str, bytes | OSError]]:
    """What `_ends` gives of each file, in order: a disk serves several readers in the time that it serves one."""
    portions = iter(lambda: list(itertools.islice(paths, _PORTION)), [])
    with ThreadPoolExecutor(_READERS) as pool:
        ahead = collections.deque(pool.submit(_attempts, p) for p in itertools.islice(portions, 2 * _READERS))
        while ahead:
            yield from ahead.popleft().result()
            ahead.extend(pool.submit(_attempts, p) for p in itertools.islice(portions, 1))


def _attempts(paths: list[str]) -> list[tuple[str, bytes | OSError]]:
    return [(path, _attempt(path)) for path in paths]


def _attempt(path: str) -> bytes | OSError:
    try:
        return _ends(path)
    except OSError as error:
        return error


def _files(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            names = sorted(e.name for e in found if e.name == "record.json" or e.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return
    except OSError as error:
        raise DfkdError(f"cannot read {folder} ({error.strerror})") from error
    for name in names:
        path = f"{folder}/{name}"
        if name == "record.json":
            yield path
        elif RUN_FOLDER.fullmatch(name):
            yield f"{path}/record.json"  # it may not be there: to open it tells that as well as to look for it
        elif not name.startswith("."):
            yield from _files(path)
