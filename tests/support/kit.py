"""What the tests of blocks and stages share: a toy card, networks small enough for a pencil, a stage's context.

The `plain_*` functions are numpy arithmetic in float64, written without the code that they are compared with.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from dfkd_bench import CostLedger, DatasetCard, Network, StageContext, TrainTransform
from dfkd_bench.blocks.best import Best

__all__ = [
    "make_card",
    "make_context",
    "make_convnet",
    "make_pencil",
    "plain_bn_distance",
    "plain_cross_entropy",
    "plain_kl",
    "plain_log_softmax",
    "plain_pencil",
    "recorder",
    "stored",
]

CPU = torch.device("cpu")


def make_card(
    *, channels: int = 3, side: int = 8, classes: int = 3, padding: int = 1, flip: bool = True
) -> DatasetCard:
    """A toy dataset's card, with a mean and a standard deviation of its own for each channel."""
    return DatasetCard(
        name="toy",
        summary="no images at all",
        num_classes=classes,
        class_names=tuple(f"class {index}" for index in range(classes)),
        image_shape=(channels, side, side),
        mean=(0.5, 0.4, 0.3)[:channels],
        std=(0.25, 0.2, 0.5)[:channels],
        transform=TrainTransform(padding=padding, flip=flip),
    )


class _ConvNet(nn.Module):
    stages = ("conv1", "conv2")

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 4, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 6, 3, padding=1, stride=2)
        self.bn2 = nn.BatchNorm2d(6)
        self.fc = nn.Linear(6, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return self.fc(x.mean(dim=(2, 3)))


def _drawn(body: nn.Module, card: DatasetCard, seed: int) -> Network:
    """With weights and BatchNorm statistics from a seed, frozen and in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in body.parameters():
            parameter.normal_(0.0, 0.7, generator=generator)
        for layer in body.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.running_mean.normal_(0.0, 0.5, generator=generator)
                layer.running_var.uniform_(0.5, 2.0, generator=generator)
    return Network(body, card).eval().requires_grad_(False)


def make_convnet(card: DatasetCard, seed: int) -> Network:
    """A frozen network of two convolutions with BatchNorm; it names its stages."""
    return _drawn(_ConvNet(card.image_shape[0], card.num_classes), card, seed)


def make_pencil(card: DatasetCard, seed: int) -> Network:
    """A frozen network that `plain_pencil` follows by hand: BatchNorm on the image, spatial mean, linear."""
    channels = card.image_shape[0]
    layers = nn.BatchNorm2d(channels), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, card.num_classes)
    return _drawn(nn.Sequential(*layers), card, seed)


def make_context(card: DatasetCard, teacher: Network, student: Network, seed: int = 0, **more: Any) -> StageContext:
    """A stage's context on the CPU, in float32, with its own stream from `seed`; `more` replaces its fields."""
    fields: dict[str, Any] = {
        "teacher": teacher,
        "student": student,
        "card": card,
        "device": CPU,
        "precision": torch.float32,
        "generator": torch.Generator().manual_seed(seed),
        "ledger": CostLedger(CPU),
        "cache": Path("a-cache-that-nobody-needs"),
        "tick": lambda done, total: None,
    }
    return StageContext(**{**fields, **more})


def recorder(seen: list[tuple[Tensor, ...]]) -> type[Best]:
    """A `Best` that also appends copies of each step's loss and tensors to `seen`."""

    class Recorder(Best):
        def update(self, loss: Tensor, *tensors: Tensor) -> None:
            seen.append(tuple(each.detach().clone() for each in (loss, *tensors)))
            super().update(loss, *tensors)

    return Recorder


def stored(state: Any) -> Any:
    """A state that has been to a file and back, so that it shares no memory with anything."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def _float64(tensor: Tensor) -> np.ndarray:
    return tensor.detach().numpy().astype(np.float64)


def plain_log_softmax(logits: np.ndarray) -> np.ndarray:
    """Of each row."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def plain_cross_entropy(logits: np.ndarray, targets: np.ndarray) -> float:
    """Mean over the rows."""
    return float(np.mean([-row[target] for row, target in zip(plain_log_softmax(logits), targets, strict=True)]))


def plain_kl(wanted: np.ndarray, got: np.ndarray) -> np.ndarray:
    """KL(wanted || got) of each row of logits."""
    log_p, log_q = plain_log_softmax(wanted), plain_log_softmax(got)
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=1)


def plain_pencil(network: Network, images: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a `make_pencil` network does: the BatchNorm's input, the features and the logits."""
    layer, linear = network.body[0], network.body[3]
    inputs = (_float64(images) - _float64(network.mean)) / _float64(network.std)
    scale = _float64(layer.weight) / np.sqrt(_float64(layer.running_var) + layer.eps)
    features = (inputs.mean(axis=(2, 3)) - _float64(layer.running_mean)) * scale + _float64(layer.bias)
    return inputs, features, features @ _float64(linear.weight).T + _float64(linear.bias)


def plain_bn_distance(network: Network, images: Tensor) -> float:
    """L_bn of a `make_pencil` network, which has one BatchNorm."""
    layer, (inputs, _, _) = network.body[0], plain_pencil(network, images)
    mean = inputs.mean(axis=(0, 2, 3))
    variance = ((inputs - mean[:, None, None]) ** 2).mean(axis=(0, 2, 3))
    of_variance = np.sqrt(((_float64(layer.running_var) - variance) ** 2).sum())
    return float(of_variance + np.sqrt(((_float64(layer.running_mean) - mean) ** 2).sum()))
