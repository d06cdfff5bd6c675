"""The iterate with the lowest loss, kept on the device without asking it."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Best"]


class Best:
    """Keeps copies of the tensors of the step with the lowest loss; the first step is always taken.

    The copies share no storage with what the optimizer goes on changing (the fault B01 of released code).
    """

    def __init__(self) -> None:
        self._loss: Tensor | None = None
        self.tensors: tuple[Tensor, ...] = ()

    def update(self, loss: Tensor, *tensors: Tensor) -> None:
        """One step's loss (a scalar) and what it was the loss of."""
        loss = loss.detach()
        if self._loss is None:
            self._loss, self.tensors = loss.clone(), tuple(tensor.detach().clone() for tensor in tensors)
            return
        better = loss < self._loss
        self._loss = torch.where(better, loss, self._loss)
        pairs = zip(tensors, self.tensors, strict=True)
        self.tensors = tuple(torch.where(better, new.detach(), old) for new, old in pairs)
