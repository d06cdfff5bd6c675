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


class _OneLayers(torch.autograd.Function):
    """Mean and biased variance of an input's channels by BatchNorm kernels: two passes over the input, and one back.

    Nothing but the input, which the layer itself keeps, is saved for the way back. What comes back is to be divided by
    the number of values already: `_Divided` does that, for all layers at once.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, unused: Tensor, ones: Tensor) -> tuple[Tensor, Tensor]:
        at_once = max(1, _SUMMED_AT_ONCE // inputs[0, 0].numel()) if inputs.device.type == "cpu" else len(inputs)
        parts = [torch.batch_norm_update_stats(images, unused[0], unused[1], 0.0) for images in inputs.split(at_once)]
        mean, variance = parts[0]
        if len(parts) > 1:
            means, variances = (torch.stack(each) for each in zip(*parts, strict=True))
            counts = [min(at_once, len(inputs) - start) for start in range(0, len(inputs), at_once)]
            weights = means.new_tensor(counts)[:, None] / len(inputs)
            mean = (weights * means).sum(dim=0)
            variance = (weights * (variances + (means - mean).square())).sum(dim=0)
        ctx.save_for_backward(inputs, mean)
        ctx.ones = ones
        return mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, bias: Tensor, weight: Tensor) -> tuple[Tensor, None, None]:
        inputs, mean = ctx.saved_tensors
        # bias + weight (x - mean): what a BatchNorm in evaluation mode does to x.
        slope: Tensor = torch.native_batch_norm(inputs, weight, bias, mean, ctx.ones, False, 0.0, 0.0)[0]
        return slope, None, None


class _Divided(torch.autograd.Function):
    """Means and variances as they are; on the way back, slopes by the values that each is made of."""

    @staticmethod
    def forward(
        ctx: Any, mean: Tensor, variance: Tensor, channels: list[int], counts: list[int]
    ) -> tuple[Tensor, Tensor]:
        ctx.channels, ctx.counts = channels, counts
        return mean.view_as(mean), variance.view_as(variance)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_mean: Tensor, to_variance: Tensor) -> tuple[Tensor, Tensor, None, None]:
        # d mean / dx = 1 / count, d variance / dx = 2 (x - mean) / count.
        biases = torch._foreach_div(to_mean.split(ctx.channels), [float(count) for count in ctx.counts])
        weights = torch._foreach_mul(to_variance.split(ctx.channels), [2 / count for count in ctx.counts])
        return torch.cat(biases), torch.cat(weights), None, None


def _statistics(*inputs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of inputs [N, C, H, W] over N, H and W, in float32 (of float64 in float64).

    Both [sum of C], the channels of one input after those of the other: what is done channel by channel is done for all
    inputs at once, since on a GPU a hundred small kernels take longer than the passes over the inputs.
    """
    channels = [each.shape[1] for each in inputs]
    # The kernel answers in the precision of the running statistics that it is given, and writes to them.
    dtype = torch.promote_types(inputs[0].dtype, torch.float32)
    unused, ones = (make(2, max(channels), dtype=dtype) for make in (inputs[0].new_zeros, inputs[0].new_ones))
    pairs = [
        _OneLayers.apply(each, unused[:, :count], ones[0, :count]) for each, count in zip(inputs, channels, strict=True)
    ]
    means, variances = zip(*pairs, strict=True)
    counts = [each.numel() // each.shape[1] for each in inputs]
    mean, variance = _Divided.apply(torch.cat(means), torch.cat(variances), channels, counts)
    return mean, variance


class _Norms(torch.autograd.Function):
    """L2 norms [L] of the L parts of a vector; by hand, because autograd goes back part by part."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, sizes: list[int]) -> Tensor:
        norms = torch.stack(torch._foreach_norm(vector.split(sizes)))
        ctx.save_for_backward(vector, norms)
        ctx.sizes = sizes
        return norms

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        vector, norms = ctx.saved_tensors
        spread = _spread(norms, ctx.sizes)
        # A norm of zero has no slope.
        return (vector / spread).masked_fill(spread == 0, 0) * _spread(slope, ctx.sizes), None


def _spread(values: Tensor, sizes: list[int]) -> Tensor:
    """Each value as often as its size says."""
    return torch.cat([each.expand(size) for each, size in zip(values.unbind(), sizes, strict=True)])


def _kept(layers: list[nn.BatchNorm2d]) -> tuple[Tensor, Tensor]:
    """Running means and variances, one layer's after the other's."""
    means = [layer.running_mean for layer in layers if layer.running_mean is not None]
    variances = [layer.running_var for layer in layers if layer.running_var is not None]
    if not len(means) == len(variances) == len(layers):
        raise ValueError("a BatchNorm layer without running statistics has nothing to match")
    return torch.cat(means), torch.cat(variances)


def _distances(layers: list[nn.BatchNorm2d], mean: Tensor, variance: Tensor) -> Tensor:
    kept_mean, kept_variance = _kept(layers)
    sizes = [layer.num_features for layer in layers]
    distances: Tensor = _Norms.apply(kept_variance - variance, sizes) + _Norms.apply(kept_mean - mean, sizes)
    return distances


def bn_distances(layers: Layers) -> Tensor:
    """[L]: per layer, ||v - v^||_2 + ||m - m^||_2 (DeepInversion, arXiv 1912.08795, with plain norms).

    m, v are the layer's running mean and variance; m^, v^ are the mean and the *biased* variance of its input
    [N, C, H, W] over N, H and W, in float32. The norms are not squared.
    """
    norms, inputs = zip(*layers, strict=True)
    return _distances(list(norms), *_statistics(*inputs))


def bn_loss(layers: Layers, first_weight: float = 1.0) -> Tensor:
    """L_bn: the unweighted sum of `bn_distances`, except that the first layer counts `first_weight` times."""
    distances = bn_distances(layers)
    return distances.sum() if first_weight == 1 else distances.sum() + (first_weight - 1.0) * distances[0]


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
        # Of all layers, one's channels after the other's. Both stay in their places, where a captured step has them.
        self._average: tuple[Tensor, Tensor] | None = None
        self._last: tuple[Tensor, Tensor] | None = None

    @property
    def known(self) -> bool:
        """Whether there is an average, so that the loss is another."""
        return self._average is not None

    def loss(self, layers: Layers) -> Tensor:
        """The loss of one forward pass."""
        rho = self.momentum
        norms, inputs = zip(*layers, strict=True)
        mean, variance = _statistics(*inputs)
        now = mean.detach(), variance.detach()
        if self._last is None:
            self._last = torch.empty_like(now[0]), torch.empty_like(now[1])
        for kept, new in zip(self._last, now, strict=True):
            kept.copy_(new)
        if self._average is not None:
            old_mean, old_variance = self._average
            mean, variance = (1 - rho) * mean + rho * old_mean, (1 - rho) * variance + rho * old_variance
        return _distances(list(norms), mean, variance).sum()

    def update(self) -> None:
        """A round has ended."""
        rho = self.momentum
        if self._last is None:
            return
        if self._average is None:
            self._average = self._last[0].clone(), self._last[1].clone()
        else:
            for old, new in zip(self._average, self._last, strict=True):
                old.copy_(rho * old + (1 - rho) * new)

    def state_dict(self) -> dict[str, Any]:
        """The averages."""
        means, variances = self._average or (None, None)
        return {"means": means, "variances": variances}

    def load_state_dict(self, state: Mapping[str, Any], device: torch.device) -> None:
        """Resume from `state`."""
        known = state["means"] is not None
        self._average = tuple(state[name].to(device, copy=True) for name in ("means", "variances")) if known else None
