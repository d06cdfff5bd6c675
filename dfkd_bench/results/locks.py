"""Who does a run: one lock file per run, which the operating system releases when its process dies. Imports no torch.

The lock files lie together in `.locks/` of the results folder and stay there: to remove one while another process
waits for it would let two processes hold the same run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock

from dfkd_bench.errors import DfkdError

__all__ = ["HeldError", "acquire", "is_locked", "locked"]


class HeldError(DfkdError):
    """Another process does this run at the moment."""


def _path(results: Path, run: str) -> Path:
    return results / ".locks" / run


def _lock(path: Path) -> filelock.BaseFileLock:
    # Not bound to a thread: an engine takes a claim in one and gives it back in another. And never a file that merely
    # exists in place of a lock: it would outlive a process that is killed, and the run would wait for ever.
    return filelock.FileLock(path, thread_local=False, fallback_to_soft=False)


def acquire(results: Path, run: str, *, wait: float = 0) -> filelock.BaseFileLock | None:
    """Claim a run: a lock to `release()`, or None if another process holds it.

    Args:
        results: the results folder.
        run: the spec's hash.
        wait: seconds to wait for it; negative for as long as it takes.

    Raises:
        DfkdError: lock files cannot be made there.
    """
    path = _path(results, run)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(path)
        lock.acquire(timeout=wait)
    except filelock.Timeout:
        return None
    except (OSError, NotImplementedError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DfkdError(
            f"cannot lock {path} ({reason}): choose another results folder or fix its permissions"
        ) from error
    return lock


@contextmanager
def locked(results: Path, run: str, *, wait: float = -1) -> Iterator[None]:
    """Hold a run inside.

    Raises:
        HeldError: another process still holds it after `wait` seconds.
    """
    lock = acquire(results, run, wait=wait)
    if lock is None:
        raise HeldError(f"run {run} is being done by another process: wait for it, or look at dfkd-bench status")
    try:
        yield
    finally:
        lock.release()


def is_locked(results: Path, run: str) -> bool:
    """Whether some process holds the run at this moment.

    Raises:
        PermissionError: this user may not look.
    """
    path = _path(results, run)
    if not path.exists():
        return False
    lock = _lock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    lock.release()
    return False
