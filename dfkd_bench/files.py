"""Files that are there whole or not at all, and the user's cache folder."""

from __future__ import annotations

import hashlib
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import platformdirs

from dfkd_bench.errors import DfkdError

__all__ = ["cache_folder", "file_hash", "listed", "remove_leftovers", "replacing", "writable_folder"]


def cache_folder(*parts: str) -> Path:
    """A folder in the user's cache (`$XDG_CACHE_HOME/dfkd-bench/...`); not made here."""
    return Path(platformdirs.user_cache_dir("dfkd-bench"), *parts)


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def replacing(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """A temporary path beside `path`, renamed to it if the block ends well and removed if not.

    With `durable` it is on the disk before it gets its name: a power cut leaves the old file or the new one.

    Raises:
        DfkdError: the folder cannot be written.
    """
    try:
        # For everyone whom the umask allows, unlike those that `tempfile` makes.
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise DfkdError(
            f"cannot write into {path.parent} ({error.strerror}): choose another folder or fix its permissions"
        ) from error
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        raise DfkdError(f"cannot write {path} ({error.strerror}); what was there before is unharmed") from error
    finally:
        temporary.unlink(missing_ok=True)


def remove(path: Path) -> None:
    """Remove a file, if it is there.

    Raises:
        DfkdError: it cannot be removed, or is a folder.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise DfkdError(f"cannot remove {path} ({error.strerror}): move it away") from error


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that was killed while it wrote left behind. Nobody else may be writing there."""
    for leftover in folder.glob(".*.tmp"):
        remove(leftover)


def listed(folder: Path) -> list[Path]:
    """What is in a folder, by name.

    Raises:
        DfkdError: it cannot be read.
    """
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise DfkdError(
            f"the folder {folder} cannot be read ({error.strerror}): fix its path or permissions"
        ) from error


def writable_folder(path: Path, purpose: str) -> Path:
    """Make the folder if need be and make sure that a file can be written there.

    Raises:
        DfkdError: it cannot.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path) as probe:
            probe.write(bytes(4096))  # a full disk still makes empty files
            probe.flush()
    except OSError as error:
        raise DfkdError(
            f"the {purpose} folder {path} cannot be written ({error.strerror}): name another one"
        ) from error
    return path
