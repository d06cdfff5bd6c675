"""Where records are in a results folder, and their bytes, however many they are. Imports no torch."""

from __future__ import annotations

import collections
import itertools
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dfkd_bench.errors import DfkdError, Report
from dfkd_bench.foreign import read_bytes

__all__ = ["BANK_FILE", "RECORD_FILE", "RUN_FOLDER", "STUDENT_FILE", "record_files", "run_folders"]

RECORD_FILE = "record.json"
#: What `--keep-bank` leaves beside it.
BANK_FILE, STUDENT_FILE = "bank.safetensors", "student.safetensors"
#: What a run's folder is called: its spec's hash.
RUN_FOLDER = re.compile(r"[0-9a-f]{16}")

_READERS = 8
_PORTION = 64

_Place = tuple[str, DfkdError | None]


def record_files(folder: Path) -> Iterator[tuple[Path, bytes | DfkdError]]:
    """Each record's path and bytes, or why it cannot be read, below a folder in the order of their paths.

    Files that are gone when they are opened are left out, and links to folders are not followed: they may lead round in
    a circle. A folder that cannot be read stands in the place of its records.
    """
    for path, found in _read_ahead(_places(str(folder))):
        if not isinstance(found, FileNotFoundError):
            yield Path(path), found


def run_folders(folder: Path, report: Report) -> Iterator[Path]:
    """The folders of runs, whether or not they have a record, in the order of their paths.

    Args:
        folder: below it.
        report: called with what is wrong with a folder that cannot be read.
    """
    for path, error in _places(str(folder)):
        run = Path(path).parent
        if error is not None:
            report(error)
        elif RUN_FOLDER.fullmatch(run.name) and run != folder:
            yield run


def _read_ahead(places: Iterator[_Place]) -> Iterator[tuple[str, bytes | DfkdError | FileNotFoundError]]:
    # A disk serves several readers in the time that it serves one.
    portions = iter(lambda: list(itertools.islice(places, _PORTION)), [])
    with ThreadPoolExecutor(_READERS) as pool:
        ahead = collections.deque(pool.submit(_attempts, p) for p in itertools.islice(portions, 2 * _READERS))
        while ahead:
            yield from ahead.popleft().result()
            ahead.extend(pool.submit(_attempts, p) for p in itertools.islice(portions, 1))


def _attempts(places: list[_Place]) -> list[tuple[str, bytes | DfkdError | FileNotFoundError]]:
    return [(path, _attempt(path) if error is None else error) for path, error in places]


def _attempt(path: str) -> bytes | DfkdError | FileNotFoundError:
    try:
        return read_bytes(path)
    except (DfkdError, FileNotFoundError) as error:
        return error


def _places(folder: str) -> Iterator[_Place]:
    """Where records may be, and folders that cannot be read with the reason. However deep: without recursion."""
    levels = [_entries(folder)]
    while levels:
        place = next(levels[-1], None)
        if place is None:
            levels.pop()
            continue
        path, error = place
        if error is not None or path.endswith("/" + RECORD_FILE):
            yield path, error
        else:
            levels.append(_entries(path))


def _entries(folder: str) -> Iterator[_Place]:
    """The records of a folder, and the folders in it that are not a run's, by name."""
    try:
        with os.scandir(folder) as found:
            names = sorted(e.name for e in found if e.name == RECORD_FILE or e.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return
    except OSError as error:
        yield folder, DfkdError(f"cannot read {folder} ({error.strerror})")
        return
    for name in names:
        path = f"{folder}/{name}"
        if name == RECORD_FILE:
            yield path, None
        elif RUN_FOLDER.fullmatch(name):
            yield f"{path}/{RECORD_FILE}", None  # it may not be there: to open it tells that as well as to look for it
        elif not name.startswith("."):
            yield path, None
