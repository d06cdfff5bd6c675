"""Whether two runs are on one GPU at the same time: then the seconds of both mislead, and their records say so."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import filelock
import torch

__all__ = ["SHARED", "on_gpu", "together"]

SHARED = "another run was on the same GPU at the same time: its seconds are not a GPU's of its own"

_MARK = "shared"


@contextmanager
def on_gpu(device: torch.device) -> Iterator[Callable[[], bool]]:
    """Inside, a run is on `device`; the answer is whether another of this user was there too. Never on a CPU."""
    if device.type != "cuda":
        yield lambda: False
        return
    card = torch.cuda.get_device_properties(device).uuid
    with together(Path(tempfile.gettempdir()) / f"dfkd-bench-{os.getuid()}" / str(card)) as shared:
        yield shared


@contextmanager
def together(folder: Path) -> Iterator[Callable[[], bool]]:
    """Inside, this process has a file in `folder`, in which others that come leave a mark, as it does in theirs."""
    own = folder / str(os.getpid())
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock"):
        others = [path for path in folder.iterdir() if path.name.isdecimal() and path != own and _alive(path)]
        for path in (own, *others):
            path.write_text(_MARK if others else "", encoding="utf-8")
    try:
        yield lambda: own.read_text(encoding="utf-8") == _MARK
    finally:
        own.unlink(missing_ok=True)


def _alive(path: Path) -> bool:
    """Whether the file's process is there; the file of one that was killed goes."""
    try:
        os.kill(int(path.name), 0)
    except ProcessLookupError:
        path.unlink(missing_ok=True)
        return False
    except PermissionError:
        return True
    return True
