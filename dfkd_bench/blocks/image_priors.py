"""Priors on pixels."""

from __future__ import annotations

from torch import Tensor

__all__ = ["l2_norm", "total_variation"]


def _differences(images: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    right = images[..., :, :-1] - images[..., :, 1:]
    down = images[..., :-1, :] - images[..., 1:, :]
    falling = images[..., 1:, 1:] - images[..., :-1, :-1]
    rising = images[..., 1:, :-1] - images[..., :-1, 1:]
    return right, down, falling, rising


def total_variation(images: Tensor, kind: str = "l1_mean") -> Tensor:
    """Roughness of images [N, C, H, W] over the differences to the right, lower and two diagonal neighbours.

    `l1_mean` is the sum of the four mean absolute differences (the CMI lineage); `l2_norm` is the sum of the four
    L2 norms over the whole batch (DeepInversion's first code).
    """
    if kind == "l1_mean":
        right, down, falling, rising = (d.abs().mean() for d in _differences(images))
    elif kind == "l2_norm":
        right, down, falling, rising = (d.norm() for d in _differences(images))
    else:
        raise ValueError(f"unknown total variation '{kind}'")
    return right + down + falling + rising


def l2_norm(images: Tensor) -> Tensor:
    """L2 norm of the whole batch tensor."""
    norm: Tensor = images.norm()
    return norm
