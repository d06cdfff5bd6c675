"""The data-free guard: while a stage is at work, no dataset can be opened."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from dfkd_bench.errors import DataFreeViolationError

__all__ = ["check_open", "sealed"]

_sealed_for: ContextVar[str | None] = ContextVar("sealed_for", default=None)


@contextmanager
def sealed(what: str) -> Iterator[None]:
    """Within this block every load of a dataset fails. It stops mistakes, not malice: a new thread starts unsealed.

    Args:
        what: who is at work, as the error is to name it, such as "synthesizer 'x'".
    """
    token = _sealed_for.set(what)
    try:
        yield
    finally:
        _sealed_for.reset(token)


def check_open() -> None:
    """Called by every loader before it opens anything.

    Raises:
        DataFreeViolationError: a `sealed` block is being executed.
    """
    what = _sealed_for.get()
    if what is not None:
        raise DataFreeViolationError(
            f"{what} tried to open a dataset: a method gets the teacher and the dataset card, never an image; "
            "take what it needs from the card"
        )
