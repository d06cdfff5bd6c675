"""The optimizers that a teacher's recipe and a student's schedule may name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

import torch
from torch import nn

__all__ = ["OptimizerSettings", "make_optimizer"]


class OptimizerSettings(Protocol):
    """What a recipe or a schedule says of an optimizer."""

    @property
    def optimizer(self) -> str:
        """`sgd` or `adamw`."""

    @property
    def lr(self) -> float:
        """The first learning rate."""

    @property
    def momentum(self) -> float:
        """Of SGD; AdamW's first beta."""

    @property
    def nesterov(self) -> bool:
        """Of SGD."""

    @property
    def weight_decay(self) -> float:
        """SGD's L2 penalty; AdamW's decoupled decay."""


def make_optimizer(
    parameters: Iterable[nn.Parameter], settings: OptimizerSettings, *, fused: bool | None = None
) -> torch.optim.Optimizer:
    """An optimizer as the settings say; AdamW's second beta is 0.999.

    Args:
        parameters: what it optimizes.
        settings: a recipe or a schedule.
        fused: one kernel for all parameters; None leaves it to torch.
    """
    how = settings
    if how.optimizer == "adamw":
        betas = (how.momentum, 0.999)
        capturable = bool(fused)  # a CUDA graph may hold its steps
        return torch.optim.AdamW(
            parameters, how.lr, betas, weight_decay=how.weight_decay, fused=fused, capturable=capturable
        )
    return torch.optim.SGD(
        parameters, how.lr, how.momentum, weight_decay=how.weight_decay, nesterov=how.nesterov, fused=fused
    )
