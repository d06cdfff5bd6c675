"""Priors on pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["l2_norm", "total_variation"]


_ALL, _FIRST, _LAST = slice(None), slice(None, -1), slice(1, None)
# Each pixel's row and column, and those of its neighbor to the right, below, and on the two diagonals.
_NEIGHBORS = (
    ((_ALL, _FIRST), (_ALL, _LAST)),
    ((_FIRST, _ALL), (_LAST, _ALL)),
    ((_LAST, _LAST), (_FIRST, _FIRST)),
    ((_LAST, _FIRST), (_FIRST, _LAST)),
)


def _differences(images: Tensor) -> list[Tensor]:
    return [images[(..., *one)] - images[(..., *other)] for one, other in _NEIGHBORS]


class _MeanAbsolute(torch.autograd.Function):
    """The sum of the mean absolute differences; by hand, because autograd pads each of the slices with zeros."""

    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        ctx.save_for_backward(images)
        return torch.stack([difference.abs_().mean() for difference in _differences(images)]).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        (images,) = ctx.saved_tensors
        found = torch.zeros_like(images)
        for (one, other), difference in zip(_NEIGHBORS, _differences(images), strict=True):
            signs = difference.sign_().mul_(slope / difference.numel())
            found[(..., *one)] += signs
            found[(..., *other)] -= signs
        return found


def total_variation(images: Tensor, kind: str = "l1_mean") -> Tensor:
    """Roughness of images [N, C, H, W] over the differences to the right, lower and two diagonal neighbors.

    `l1_mean` is the sum of the four mean absolute differences (the CMI lineage); `l2_norm` is the sum of the four
    L2 norms over the whole batch (DeepInversion's first code).
    """
    if kind == "l1_mean":
        roughness: Tensor = _MeanAbsolute.apply(images)
    elif kind == "l2_norm":
        roughness = torch.stack([difference.norm() for difference in _differences(images)]).sum()
    else:
        raise ValueError(f"unknown total variation '{kind}'")
    return roughness


def l2_norm(images: Tensor) -> Tensor:
    """L2 norm of the whole batch tensor."""
    norm: Tensor = images.norm()
    return norm
