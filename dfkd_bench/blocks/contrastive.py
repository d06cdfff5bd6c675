"""Contrastive model inversion's instance bank, projection head and loss (arXiv 2105.08584)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["InstanceBank", "ProjectionHead", "contrastive_loss", "instance_features"]


def instance_features(maps: Iterable[Tensor]) -> Tensor:
    """h(x), float32 [N, sum of channels]: the spatial means of maps [N, C, H, W], one after the other."""
    # Divided after the sum: the gradient is then divided at one value per map, not at each of its places.
    means = [each.sum(dim=(2, 3), dtype=torch.float32) / (each.shape[2] * each.shape[3]) for each in maps]
    return torch.cat(means, dim=1)


class ProjectionHead(nn.Module):
    """phi: Linear(d, d), ReLU, Linear(d, out), then L2 normalization."""

    def __init__(self, feature_dim: int, out_dim: int = 256) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, out_dim))

    def forward(self, features: Tensor) -> Tensor:
        """Unit vectors [N, out]."""
        return F.normalize(self.layers(features).float(), dim=1)


def contrastive_loss(local: Tensor, glob: Tensor, current: int, tau: float) -> Tensor:
    """L_cr: each local view is to find its own global view among all (arXiv 2105.08584).

    Args:
        local: unit vectors [M, d] of the local views, the current batch first, then the bank's.
        glob: the same images' global views; detached here, so that images learn through their local views alone.
        current: how many of the M belong to the current batch.
        tau: temperature.

    Returns:
        The mean over the current rows plus, if there are any, the mean over the bank's rows.
    """
    logits = local @ glob.detach().t() / tau
    losses = F.cross_entropy(logits, torch.arange(len(logits), device=logits.device), reduction="none")
    loss = losses[:current].mean()
    return loss if current == len(losses) else loss + losses[current:].mean()


class InstanceBank:
    """Raw features of earlier images' two views: a FIFO ring on the device. A batch may wrap around its end."""

    def __init__(self, capacity: int, feature_dim: int, device: torch.device) -> None:
        self.capacity = capacity
        self._room = torch.empty(0, 2, feature_dim, device=device)
        self._count = 0
        self._next = 0

    def __len__(self) -> int:
        return self._count

    @property
    def place(self) -> tuple[int, int]:
        """How many images it has and where: where both are the same, so is what `sample` asks of a device."""
        return self._count, self._room.data_ptr()

    def add(self, local: Tensor, glob: Tensor) -> None:
        """Keep the features [N, d] of both views of a batch; past the capacity the oldest go."""
        rows = torch.stack((local, glob), dim=1).detach()[-self.capacity :]
        fresh, wrapped = rows.tensor_split([self.capacity - self._count])
        self._reserve(self._count + len(fresh))
        self._room[self._count : self._count + len(fresh)] = fresh
        self._count += len(fresh)
        if len(wrapped):
            place = (self._next + torch.arange(len(wrapped), device=rows.device)) % self.capacity
            self._room[place] = wrapped
            self._next = (self._next + len(wrapped)) % self.capacity

    def _reserve(self, count: int) -> None:
        if count <= len(self._room):
            return
        # Doubled, so that an allocator that keeps what is freed keeps no more than the ring itself once again.
        grown = self._room.new_empty(min(max(count, 2 * len(self._room)), self.capacity), *self._room.shape[1:])
        grown[: self._count] = self._room[: self._count]
        self._room = grown

    def sample(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Local and global features [min(count, len), d] of images drawn without replacement."""
        order = torch.randperm(self._count, generator=generator, device=self._room.device)[:count]
        rows = self._room[order]
        return rows[:, 0], rows[:, 1]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume."""
        # On the CPU: a second bank need not fit on the device.
        return {"rows": self._room[: self._count].to("cpu", copy=True), "next": self._next}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""
        self._room = state["rows"].to(self._room.device, copy=True)
        self._count = len(self._room)
        self._next = state["next"]
