"""Training a teacher on real data, by a recipe."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.nn import functional as F

from dfkd_bench.blocks.optimizers import make_optimizer
from dfkd_bench.blocks.views import crop_and_flip
from dfkd_bench.card import TeacherRecipe
from dfkd_bench.datasets.access import Dataset
from dfkd_bench.datasets.split import Split
from dfkd_bench.resume.checkpoint import Checkpoint
from dfkd_bench.stages.network import Network
from dfkd_bench.stages.seeds import global_state, global_stream, set_global_state, stream, stream_seed

__all__ = ["Training"]


class Training:
    """A network on its way through a recipe, epoch by epoch.

    Args:
        network: in what precision and on what device it computes; trained in place.
        split: the images.
        data: whose they are.
        recipe: how.
        device: where the images are put.
        tick: called after each step with the number of steps done and of all.
    """

    def __init__(
        self,
        network: Network,
        split: Split,
        data: Dataset,
        recipe: TeacherRecipe,
        device: torch.device,
        tick: Callable[[int, int], None],
    ) -> None:
        self._network, self._recipe, self._transform, self._tick = network, recipe, data.card.transform, tick
        self._images, self._labels = split.images.to(device), split.labels.to(device)
        self._device = device
        self._generator = stream(recipe.seed, "teacher/data", device)
        self._optimizer = make_optimizer(network.parameters(), recipe, fused=device.type == "cuda")
        self._batch_size = min(recipe.batch_size, len(self._images))
        self._steps = len(self._images) // self._batch_size
        self._total = recipe.epochs * self._steps
        factor = functools.partial(_lr_factor, total=self._total, warmup=recipe.warmup_epochs * self._steps)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, factor)
        self._epochs = 0
        self.seconds = 0.0

    def to_the_end(self, checkpoint: Checkpoint) -> None:
        """Train what is left, with a checkpoint after an epoch when one is due.

        Raises:
            DfkdError: the checkpoint is damaged, or another training's.
        """
        # Dropout draws from torch's own generator.
        with global_stream(stream_seed(self._recipe.seed, "teacher/global"), self._device):
            checkpoint.restore(self)
            self._train(checkpoint)

    def _train(self, checkpoint: Checkpoint) -> None:
        self._network.train()
        while self._epochs < self._recipe.epochs:
            start = time.monotonic()
            self._epoch()
            self._epochs += 1
            self.seconds += time.monotonic() - start
            if self._epochs < self._recipe.epochs:
                checkpoint.save_if_due(self)
        self._network.eval()

    def _epoch(self) -> None:
        order = torch.randperm(len(self._images), generator=self._generator, device=self._images.device)
        for step, index in enumerate(order[: self._steps * self._batch_size].split(self._batch_size)):
            batch = crop_and_flip(self._images[index], self._transform, self._generator).float() / 255
            loss = F.cross_entropy(self._network(batch), self._labels[index])
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            self._schedule.step()
            self._tick(self._epochs * self._steps + step + 1, self._total)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume."""
        return {
            "network": self._network.body.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "schedule": self._schedule.state_dict(),
            "generator": self._generator.get_state(),
            "global": global_state(self._device),
            "epochs": self._epochs,
            "seconds": self.seconds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""
        self._network.body.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._schedule.load_state_dict(state["schedule"])
        self._generator.set_state(state["generator"])
        set_global_state(state["global"], self._device)
        self._epochs, self.seconds = state["epochs"], state["seconds"]


def _lr_factor(step: int, total: int, warmup: int) -> float:
    """The part of the first learning rate at a step: a line from a thousandth up, then a cosine down to zero."""
    if step < warmup:
        return 1e-3 + (1 - 1e-3) * step / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1))) / 2
