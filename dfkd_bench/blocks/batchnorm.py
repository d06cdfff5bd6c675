"""The distance between a batch's statistics and those that the teacher's BatchNorm layers keep."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["bn_distances", "bn_loss"]


def bn_distances(layers: Iterable[tuple[nn.BatchNorm2d, Tensor]]) -> list[Tensor]:
    """Per layer, ||v - v^||_2 + ||m - m^||_2 (DeepInversion, arXiv 1912.08795, eq. 4, with plain norms).

    m, v are the layer's running mean and variance; m^, v^ are the mean and the *biased* variance of its input
    [N, C, H, W] over N, H and W, in float32. The norms are not squared.
    """
    distances = []
    for layer, inputs in layers:
        if layer.running_mean is None or layer.running_var is None:
            raise ValueError("a BatchNorm layer without running statistics has nothing to match")
        # Channels last, so that both sums run over rows: on a CPU five times as fast as torch.var_mean with its
        # backward.
        rows = inputs.float().permute(0, 2, 3, 1).flatten(0, 2)
        mean = rows.mean(dim=0)
        variance = (rows - mean).square().mean(dim=0)
        distances.append((layer.running_var - variance).norm() + (layer.running_mean - mean).norm())
    return distances


def bn_loss(layers: Iterable[tuple[nn.BatchNorm2d, Tensor]], first_weight: float = 1.0) -> Tensor:
    """L_bn: the unweighted sum of `bn_distances`, except that the first layer counts `first_weight` times."""
    distances = bn_distances(layers)
    return torch.stack(distances).sum() + (first_weight - 1.0) * distances[0]
