"""What the tests of the methods share: tiny networks, a context, and networks that answer what they are told."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dfkd_bench.card import DatasetCard, TrainTransform
from dfkd_bench.stages.base import StageContext
from dfkd_bench.stages.network import Network, Observation
from dfkd_bench.stages.seeds import global_stream
from support import kit

__all__ = [
    "AGREEMENT",
    "CPU",
    "Fixed",
    "TinyBody",
    "bn_input",
    "make_card",
    "make_context",
    "make_network",
    "passes",
    "snapshot",
    "stream",
]

CPU = torch.device("cpu")


class TinyBody(nn.Module):
    """Two convolutions with BatchNorm, and a linear layer; its second map is `stride` times as small as the image."""

    stages = ("first", "second")

    def __init__(self, channels: int = 3, classes: int = 3, width: int = 6, stride: int = 2) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.second(self.first(images)).mean(dim=(2, 3)))


def make_card(channels: int = 3, side: int = 8, classes: int = 3, **changes: Any) -> DatasetCard:
    """A card without a random transform."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "summary": "made by hand",
        "num_classes": classes,
        "class_names": tuple(f"class {index}" for index in range(classes)),
        "image_shape": (channels, side, side),
        "mean": (0.5,) * channels,
        "std": (0.25,) * channels,
        "transform": TrainTransform(),
    }
    return DatasetCard(**{**fields, **changes})


def make_network(card: DatasetCard, seed: int, *, width: int = 6, stride: int = 2) -> Network:
    """A network with weights and BatchNorm statistics drawn from `seed`, frozen, in evaluation mode."""
    with global_stream(seed, CPU):
        body = TinyBody(card.image_shape[0], card.num_classes, width, stride)
        for layer in body.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_()
                layer.running_var.uniform_(0.5, 2.0)
        body.head.weight.data.mul_(3)
    return Network(body, card).eval().requires_grad_(False)


def stream(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_context(card: DatasetCard | None = None, *, seed: int = 0, **changes: Any) -> StageContext:
    """A context on the CPU in float32; `changes` replaces any of its fields."""
    card = card or make_card()
    teacher = changes.pop("teacher", None) or make_network(card, 1)
    student = changes.pop("student", None) or make_network(card, 2, width=5)
    return kit.make_context(card, teacher, student, seed, **changes)


class Fixed:
    """Stands for a network; whatever it sees, it answers the same."""

    def __init__(
        self,
        logits: Any,
        *,
        features: Any = ((0.0,),),
        batchnorm: Sequence[tuple[nn.BatchNorm2d, Tensor]] = (),
        maps: dict[str, Tensor] | None = None,
    ) -> None:
        self.seen = Observation(
            logits=torch.as_tensor(logits, dtype=torch.float32),
            features=torch.as_tensor(features, dtype=torch.float32),
            batchnorm=list(batchnorm),
            maps=maps or {},
        )

    def __call__(self, images: Tensor) -> Tensor:
        # Not the leaf itself, so that `no_grad` around the call has an effect.
        return self.seen.logits * 1

    def observe(self, images: Tensor, **_: Any) -> Observation:
        return self.seen


def bn_input(mean: float, deviation: float) -> Tensor:
    """[1, 1, 1, 2] with this mean and this (biased) standard deviation."""
    return torch.tensor([mean - deviation, mean + deviation]).view(1, 1, 1, 2)


_LN2, _LN3, _LN8 = (float(torch.tensor(x).log()) for x in (2.0, 3.0, 8.0))

# Two images: the teacher says (2/3, 1/3) to both. The student agrees on the first, with (8/9, 1/9), and not on the
# second, with (1/3, 2/3). "agreed" and "opposed" are KL(teacher || student) of the two.
AGREEMENT = {
    "teacher": [[_LN2, 0.0], [_LN2, 0.0]],
    "student": [[_LN8, 0.0], [0.0, _LN2]],
    # 2/3 ln((2/3)/(8/9)) + 1/3 ln((1/3)/(1/9)) = 2/3 ln(3/4) + 1/3 ln 3
    "agreed": 2 / 3 * (_LN3 - 2 * _LN2) + 1 / 3 * _LN3,
    # 2/3 ln 2 - 1/3 ln 2
    "opposed": _LN2 / 3,
}


def snapshot(module: nn.Module) -> dict[str, Tensor]:
    """A copy of its parameters and buffers."""
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


def passes(network: nn.Module) -> list[int]:
    """A list that grows by the batch size at every pass through `network` from now on."""
    counted: list[int] = []
    network.register_forward_pre_hook(lambda _, args: counted.append(len(args[0])))
    return counted
