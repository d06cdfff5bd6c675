"""The data-free guard: while a stage is at work, no dataset can be opened, from any thread of the process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dfkd_bench.errors import DataFreeViolationError

__all__ = ["check_open", "evaluating", "require_no_attempt", "sealed"]

_lock = threading.Lock()
_sealed_for: list[str] = []
_attempts: list[str] = []
_evaluating: set[int] = set()


@contextmanager
def sealed(what: str) -> Iterator[None]:
    """Within this block every load of a dataset in this process fails, and is remembered.

    It stops mistakes, not malice.

    Args:
        what: who is at work, as the error is to name it, such as "synthesizer 'x'".
    """
    with _lock:
        if not _sealed_for:
            _attempts.clear()
        _sealed_for.append(what)
    try:
        yield
    finally:
        with _lock:
            _sealed_for.pop()


@contextmanager
def evaluating() -> Iterator[None]:
    """Within this block this thread, and no other, may open a dataset though the process is sealed: no stage's turn."""
    thread = threading.get_ident()
    _evaluating.add(thread)
    try:
        yield
    finally:
        _evaluating.discard(thread)


def check_open() -> None:
    """Called by every loader before it opens anything.

    Raises:
        DataFreeViolationError: a `sealed` block is being executed, in whatever thread.
    """
    with _lock:
        if not _sealed_for or threading.get_ident() in _evaluating:
            return
        sentence = (
            f"{_sealed_for[-1]} tried to open a dataset: a method gets the teacher and the dataset card, never an "
            "image; take what it needs from the card"
        )
        _attempts.append(sentence)
    raise DataFreeViolationError(sentence)


def require_no_attempt() -> None:
    """Called between a stage's turns: a thread's exception, or one that was caught, ends no run by itself.

    Raises:
        DataFreeViolationError: somebody tried to open a dataset since the outermost `sealed` block began.
    """
    with _lock:
        first = _attempts[0] if _sealed_for and _attempts else None
    if first is not None:
        raise DataFreeViolationError(first)
