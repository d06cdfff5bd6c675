"""What an exception in a run means for its record."""

from __future__ import annotations

import torch

from dfkd_bench.results.records import Status
from dfkd_bench.texts import message

__all__ = ["DivergedError", "of_exception"]

# What torch's allocators, CUDA, its libraries and the operating system say, in errors of many types. cuBLAS that cannot
# begin has no room for its handle.
_NO_MEMORY = (
    "out of memory",
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "_alloc_failed",
    "_allocation_failed",
    "cublas_status_not_initialized",
)


class DivergedError(Exception):
    """A loss or an image became infinite or not a number."""


def of_exception(error: BaseException) -> tuple[Status, str]:
    """The status and reason of a run that ended in `error`."""
    text = message(error)
    if isinstance(error, DivergedError):
        return "diverged", text
    reason = f"{type(error).__name__}: {text}" if text else type(error).__name__
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return "out-of-memory", reason
    if isinstance(error, RuntimeError | OSError) and any(words in text.lower() for words in _NO_MEMORY):
        return "out-of-memory", reason
    return "failed", reason
