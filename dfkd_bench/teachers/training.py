"""Training a teacher on real data, by a recipe."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from dfkd_bench.blocks.views import crop_and_flip
from dfkd_bench.card import TeacherRecipe
from dfkd_bench.datasets.access import Dataset
from dfkd_bench.datasets.split import Split
from dfkd_bench.stages.network import Network
from dfkd_bench.stages.seeds import stream

__all__ = ["fit_to_data"]


def fit_to_data(
    network: Network,
    split: Split,
    data: Dataset,
    recipe: TeacherRecipe,
    device: torch.device,
    tick: Callable[[int, int], None],
) -> None:
    """Train a network on a split by a recipe."""
    images, labels = split.images.to(device), split.labels.to(device)
    generator = stream(recipe.seed, "teacher/data", device)
    optimizer = torch.optim.SGD(
        network.parameters(), recipe.lr, recipe.momentum, weight_decay=recipe.weight_decay, nesterov=recipe.nesterov
    )
    batch_size = min(recipe.batch_size, len(images))
    steps = len(images) // batch_size
    total, warmup = recipe.epochs * steps, recipe.warmup_epochs * steps
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, functools.partial(_lr_factor, total=total, warmup=warmup))
    network.train()
    for epoch in range(recipe.epochs):
        order = torch.randperm(len(images), generator=generator, device=device)
        for step, index in enumerate(order[: steps * batch_size].split(batch_size)):
            batch = crop_and_flip(images[index], data.card.transform, generator).float() / 255
            loss = F.cross_entropy(network(batch), labels[index])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            tick(epoch * steps + step + 1, total)
    network.eval()


def _lr_factor(step: int, total: int, warmup: int) -> float:
    """The part of the first learning rate at a step: a line from a thousandth up, then a cosine down to zero."""
    if step < warmup:
        return 1e-3 + (1 - 1e-3) * step / warmup
    return (1 + math.cos(math.pi * (step - warmup) / max(total - warmup, 1))) / 2
