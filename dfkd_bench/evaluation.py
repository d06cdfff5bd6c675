"""Accuracy and agreement. The evaluator alone opens the test split, and closes it again."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dfkd_bench.datasets.split import Split
from dfkd_bench.datasets.stored import StoredSplit
from dfkd_bench.environment import Execution, arithmetic
from dfkd_bench.stages.network import Network, frozen

__all__ = ["Evaluator", "Measurement", "predict"]

_BATCH = 500


@dataclass(frozen=True)
class Measurement:
    """Percent of the test split: right at the first guess, among the first five, in agreement with a reference."""

    top1: float
    top5: float
    agreement: float


@torch.inference_mode()
def predict(network: Network, images: Tensor, device: torch.device, guesses: int = 1) -> Tensor:
    """The `guesses` likeliest classes, int64 [N, guesses], of bytes [N, C, H, W]; the network in evaluation mode.

    Always in float32, not in TF32, whatever the run computes in: what is reported does not depend on the training's
    precision.
    """
    precision, network.precision = network.precision, torch.float32
    try:
        with frozen(network), arithmetic(Execution(device, torch.float32)):
            batches = images.split(_BATCH)
            parts = [network(batch.to(device).float() / 255).topk(guesses, dim=1).indices.cpu() for batch in batches]
    finally:
        network.precision = precision
    return torch.cat(parts)


class Evaluator:
    """Measures networks on a test split, which is in memory for no longer than that.

    Args:
        split: the test images and labels; kept on the disk.
        device: where the networks are.

    Raises:
        DfkdError: the split cannot be kept anywhere.
    """

    def __init__(self, split: Split, device: torch.device) -> None:
        self._stored = StoredSplit(split)
        self._device = device

    @property
    def fingerprint(self) -> str:
        """Hash of the test split."""
        return self._stored.fingerprint

    def __len__(self) -> int:
        return len(self._stored)

    def reference(self, network: Network) -> Tensor:
        """The classes that `network` names, int64 [N]."""
        with self._stored.opened() as (images, _):
            return predict(network, images, self._device)[:, 0]

    def measure(self, network: Network, reference: Tensor | None = None) -> Measurement:
        """Accuracy, and agreement with `reference` (the labels, where none is given)."""
        with self._stored.opened() as (images, stored):
            guesses = predict(network, images, self._device, min(5, network.num_classes))
            labels = stored.clone()
        right = guesses == labels[:, None]
        agree = guesses[:, 0] == (labels if reference is None else reference)
        return Measurement(_percent(right[:, 0]), _percent(right.any(dim=1)), _percent(agree))


def _percent(hits: Tensor) -> float:
    return round(100.0 * int(hits.sum()) / max(len(hits), 1), 4)
