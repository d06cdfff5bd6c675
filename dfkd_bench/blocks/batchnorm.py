"""The distance between a batch's statistics and those that the teacher's BatchNorm layers keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

__all__ = ["BnAverage", "bn_distances", "bn_loss"]

Layers = Iterable[tuple[nn.BatchNorm2d, Tensor]]


# Values of one channel that are summed in one go on a CPU, whose kernel adds them one after the other in float32: with
# more of them the sum loses digits, with fewer the calls themselves cost time. A GPU's kernel sums in a tree.
_SUMMED_AT_ONCE = 2**14


class _Statistics(torch.autograd.Function):
    """Mean and biased variance of each channel by BatchNorm kernels: two passes over the input, and one back.

    Nothing but the input, which the layer itself keeps, is saved for the way back.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> tuple[Tensor, Tensor]:
        at_once = max(1, _SUMMED_AT_ONCE // inputs[0, 0].numel()) if inputs.device.type == "cpu" else len(inputs)
        parts = [_part(images) for images in inputs.split(at_once)]
        mean, variance = parts[0]
        if len(parts) > 1:
            means, variances = (torch.stack(each) for each in zip(*parts, strict=True))
            counts = [min(at_once, len(inputs) - start) for start in range(0, len(inputs), at_once)]
            weights = means.new_tensor(counts)[:, None] / len(inputs)
            mean = (weights * means).sum(dim=0)
            variance = (weights * (variances + (means - mean).square())).sum(dim=0)
        ctx.save_for_backward(inputs, mean)
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_mean: Tensor, to_variance: Tensor) -> Tensor:
        inputs, mean = ctx.saved_tensors
        count = inputs.numel() // len(mean)
        # to_mean / count + to_variance 2 (x - mean) / count: what a BatchNorm in evaluation mode does to x.
        weight, bias = to_variance * (2 / count), to_mean / count
        slope: Tensor = torch.native_batch_norm(inputs, weight, bias, mean, torch.ones_like(mean), False, 0.0, 0.0)[0]
        return slope


def _part(images: Tensor) -> tuple[Tensor, Tensor]:
    # The kernel answers in the precision of the running statistics that it is given, in half precision if it has none.
    dtype = torch.promote_types(images.dtype, torch.float32)
    unused = torch.zeros(2, images.shape[1], dtype=dtype, device=images.device)
    mean, variance = torch.batch_norm_update_stats(images, unused[0], unused[1], 0.0)
    return mean, variance


def _statistics(inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance [C] of [N, C, H, W] over N, H and W, in float32 (of float64 in float64)."""
    mean, variance = _Statistics.apply(inputs)
    return mean, variance


def _distance(layer: nn.BatchNorm2d, mean: Tensor, variance: Tensor) -> Tensor:
    if layer.running_mean is None or layer.running_var is None:
        raise ValueError("a BatchNorm layer without running statistics has nothing to match")
    distance: Tensor = (layer.running_var - variance).norm() + (layer.running_mean - mean).norm()
    return distance


def bn_distances(layers: Layers) -> list[Tensor]:
    """Per layer, ||v - v^||_2 + ||m - m^||_2 (DeepInversion, arXiv 1912.08795, with plain norms).

    m, v are the layer's running mean and variance; m^, v^ are the mean and the *biased* variance of its input
    [N, C, H, W] over N, H and W, in float32. The norms are not squared.
    """
    return [_distance(layer, *_statistics(inputs)) for layer, inputs in layers]


def bn_loss(layers: Layers, first_weight: float = 1.0) -> Tensor:
    """L_bn: the unweighted sum of `bn_distances`, except that the first layer counts `first_weight` times."""
    distances = bn_distances(layers)
    return torch.stack(distances).sum() + (first_weight - 1.0) * distances[0]


class BnAverage:
    """L_bn against statistics averaged over rounds (FastDFKD, arXiv 2112.06253; NAYER, arXiv 2310.00258).

    The loss takes v^ -> (1 - rho) v^ + rho v-bar and m^ likewise, the averages detached; in the first round there is
    no average yet and it is plain L_bn. `update` ends a round: first m-bar <- m^, later
    m-bar <- rho m-bar + (1 - rho) m^, with the statistics of the round's last `loss`.

    Args:
        momentum: rho, in [0, 1).
    """

    def __init__(self, momentum: float) -> None:
        self.momentum = momentum
        self._average: list[tuple[Tensor, Tensor]] = []
        self._last: list[tuple[Tensor, Tensor]] = []

    def loss(self, layers: Layers) -> Tensor:
        """The loss of one forward pass."""
        rho, distances, seen = self.momentum, [], []
        for index, (layer, inputs) in enumerate(layers):
            mean, variance = _statistics(inputs)
            seen.append((mean.detach(), variance.detach()))
            if self._average:
                old_mean, old_variance = self._average[index]
                mean, variance = (1 - rho) * mean + rho * old_mean, (1 - rho) * variance + rho * old_variance
            distances.append(_distance(layer, mean, variance))
        self._last = seen
        return torch.stack(distances).sum()

    def update(self) -> None:
        """A round has ended."""
        rho = self.momentum
        if not self._average:
            self._average = self._last
        else:
            pairs = zip(self._average, self._last, strict=True)
            self._average = [(rho * m + (1 - rho) * nm, rho * v + (1 - rho) * nv) for (m, v), (nm, nv) in pairs]

    def state_dict(self) -> dict[str, Any]:
        """The averages."""
        return {"means": [m for m, _ in self._average], "variances": [v for _, v in self._average]}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Go on from `state`."""
        pairs = zip(state["means"], state["variances"], strict=True)
        self._average = [(mean.to(device), variance.to(device)) for mean, variance in pairs]
