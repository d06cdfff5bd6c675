"""An optimizer made new without being another."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["restart"]


def restart(optimizer: torch.optim.Optimizer) -> None:
    """Let it forget the steps that it took. What it keeps stays in its place, where a captured step writes to it."""
    kept = [value for state in optimizer.state.values() for value in state.values() if isinstance(value, Tensor)]
    if kept:
        torch._foreach_zero_(kept)
