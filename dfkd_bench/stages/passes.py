"""What a stage's work will cost before it is done: images through its networks, and what one of them takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dfkd_bench.card import DatasetCard
from dfkd_bench.stages.ledger import CostLedger

__all__ = ["Passes", "Projection", "Workload", "flops_per_image"]


@dataclass(frozen=True)
class Workload:
    """How much a whole run asks of its stages.

    Attributes:
        card: the dataset.
        warmup_rounds: rounds of the warm-up.
        main_rounds: rounds between the student's steps.
        sampled: images that a stream synthesizer is asked for.
        sources: synthesized images that are augmented.
        variants: augmented images that are filtered.
        student_images: images that the student is trained on, each as often as it is shown.
    """

    card: DatasetCard
    warmup_rounds: int = 0
    main_rounds: int = 0
    sampled: int = 0
    sources: int = 0
    variants: int = 0
    student_images: int = 0


@dataclass(frozen=True)
class Passes:
    """Images through one network.

    Attributes:
        network: `teacher`, `student`, or the role under which a stage watches a network of its own.
        forward: images.
        backward: images.
        trained: the gradient also goes to its weights, which doubles a backward pass.
        flops: operations of one image forward, for a network of the stage's own; see `flops_per_image`.
    """

    network: str
    forward: int
    backward: int = 0
    trained: bool = False
    flops: Callable[[], int] | None = None


@dataclass(frozen=True)
class Projection:
    """What a stage does in a whole run.

    Attributes:
        images: that it makes.
        passes: through the networks that the cost ledger watches.
    """

    images: int = 0
    passes: tuple[Passes, ...] = ()


def flops_per_image(build: Callable[[], nn.Module], *inputs: tuple[int, ...], **more: tuple[int, ...]) -> int:
    """Operations of a forward pass, by the cost ledger's own count, on a device that computes nothing.

    Args:
        build: makes the network; no memory is taken for its weights.
        inputs: shapes of its positional arguments for one image, the first dimension 1.
        more: shapes of its named arguments.
    """
    with torch.device("meta"), torch.no_grad():
        network = build().to("meta").eval()
        ledger = CostLedger(torch.device("cpu"))
        ledger.watch(network, "network")
        arguments: dict[str, Any] = {name: torch.zeros(shape) for name, shape in more.items()}
        with ledger.phase("pass") as cost:
            network(*(torch.zeros(shape) for shape in inputs), **arguments)
    return cost.flops
