"""The iterate with the lowest loss, kept on the device without asking it."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["Best"]


class Best:
    """Keeps copies of the tensors of the step with the lowest loss; the first step is always taken.

    The copies share no storage with what the optimizer keeps changing (the fault B01 of released code).
    """

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self.tensors: tuple[Tensor, ...] = ()

    def restart(self) -> None:
        """The next step is the first; what is kept is overwritten then, in its place."""
        if self._loss is not None:
            self._loss.fill_(math.inf)

    def update(self, loss: Tensor, *tensors: Tensor) -> None:
        """One step's loss (a scalar) and what it was the loss of."""
        loss = loss.detach()
        if self._loss is None:
            self._loss = torch.full_like(loss, math.inf)
            self.tensors = tuple(torch.empty_like(tensor, requires_grad=False) for tensor in tensors)
        better = (loss < self._loss) | (self._loss == math.inf)
        self._loss.copy_(torch.where(better, loss, self._loss))
        for new, kept in zip(tensors, self.tensors, strict=True):
            torch.where(better, new.detach(), kept, out=kept)
