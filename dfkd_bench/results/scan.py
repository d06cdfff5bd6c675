"""Where records lie in a results folder, and their bytes, however many they are. Imports no torch."""

from __future__ import annotations

import collections
import itertools
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dfkd_bench.errors import DfkdError

__all__ = ["RECORD_FILE", "RUN_FOLDER", "record_files"]

RECORD_FILE = "record.json"
#: What a run's folder is called: its spec's hash.
RUN_FOLDER = re.compile(r"[0-9a-f]{16}")

_READERS = 8
_PORTION = 64


def record_files(folder: Path) -> Iterator[tuple[Path, bytes | OSError]]:
    """Each record's path and bytes, or why it cannot be read, below a folder in the order of their paths.

    Files that are gone when they are opened are left out.

    Raises:
        DfkdError: a folder cannot be read.
    """
    for path, found in _read_ahead(_files(str(folder))):
        if not isinstance(found, FileNotFoundError):
            yield Path(path), found


def _read_ahead(paths: Iterator[str]) -> Iterator[tuple[str, bytes | OSError]]:
    # A disk serves several readers in the time that it serves one.
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
        with open(path, "rb", buffering=0) as file:  # noqa: PTH123 - a hundred thousand of them
            return file.read()
    except OSError as error:
        return error


def _files(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as found:
            names = sorted(e.name for e in found if e.name == RECORD_FILE or e.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return
    except OSError as error:
        raise DfkdError(f"cannot read {folder} ({error.strerror})") from error
    for name in names:
        path = f"{folder}/{name}"
        if name == RECORD_FILE:
            yield path
        elif RUN_FOLDER.fullmatch(name):
            yield f"{path}/{RECORD_FILE}"  # it may not be there: to open it tells that as well as to look for it
        elif not name.startswith("."):
            yield from _files(path)
