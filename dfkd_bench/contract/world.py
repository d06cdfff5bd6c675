"""What a stage is played on: cards, small networks with weights from a seed, contexts, and images to work with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfkd_bench.card import DatasetCard, TrainTransform
from dfkd_bench.stages.bank import ImageBank, SyntheticBatch
from dfkd_bench.stages.base import StageContext
from dfkd_bench.stages.ledger import CostLedger
from dfkd_bench.stages.network import Network, Precision
from dfkd_bench.stages.seeds import global_stream, stream

__all__ = ["BATCH", "CPU", "Build", "World", "make_card"]

CPU = torch.device("cpu")
#: Images in a batch: no multiple of any class count that is tried.
BATCH = 13

Build = Callable[[DatasetCard], nn.Module]
"""Makes a network's body for a dataset."""


def make_card(classes: int = 3, channels: int = 3, height: int = 8, width: int = 8) -> DatasetCard:
    """A dataset's card without a dataset."""
    return DatasetCard(
        name="contract",
        summary="made up by the contract kit",
        num_classes=classes,
        class_names=tuple(f"class {index}" for index in range(classes)),
        image_shape=(channels, height, width),
        mean=(0.5, 0.4, 0.3)[:channels],
        std=(0.25, 0.2, 0.3)[:channels],
        transform=TrainTransform(padding=1, flip=True),
    )


class _Body(nn.Module):
    """Two convolutions with BatchNorm and a linear layer; takes any size and names its stages."""

    stages = ("first", "second")

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(channels, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
        self.head = nn.Linear(2 * width, classes)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.second(self.first(images)).mean(dim=(2, 3)))
        return logits


class _Attention(nn.Module):
    """Self-attention, its parts named as timm names them."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        query, key, value = self.qkv(tokens).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        seen: Tensor = F.scaled_dot_product_attention(query, key, value)
        mixed: Tensor = self.proj(seen.transpose(1, 2).flatten(2))
        return mixed


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attn = _Attention(width, 2)
        self.mlp = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.attn(self.norm(tokens))
        out: Tensor = tokens + self.mlp(tokens)
        return out


class _Transformer(nn.Module):
    """Two blocks and a class token; its patches are pixels, so that it takes any size."""

    num_prefix_tokens = 1

    def __init__(self, channels: int, classes: int, width: int) -> None:
        super().__init__()
        self.patch_embed = nn.Conv2d(channels, width, 1)
        self.cls_token = nn.Parameter(torch.randn(1, 1, width))
        self.blocks = nn.Sequential(_Block(width), _Block(width))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patch_embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat((self.cls_token.expand(len(images), -1, -1), patches), dim=1)
        logits: Tensor = self.head(self.norm(self.blocks(tokens))[:, 0])
        return logits


def _tiny_transformer(card: DatasetCard) -> nn.Module:
    return _Transformer(card.image_shape[0], card.num_classes, 8)


def _tiny(width: int) -> Build:
    return lambda card: _Body(card.image_shape[0], card.num_classes, width)


def _network(card: DatasetCard, build: Build, seed: int, precision: Precision) -> Network:
    with global_stream(seed, CPU):
        network = Network(build(card), card, precision)
    layers = network.batchnorm_layers
    usual = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 1.0
    with torch.no_grad():
        # The statistics of these images, as a trained network has those of its own.
        network.train()(_lesson(card))
    for layer, momentum in zip(layers, usual, strict=True):
        layer.momentum = momentum
    return network.eval()


def _lesson(card: DatasetCard) -> Tensor:
    """Flat, coarse and noisy images."""
    draws, shape = stream(0, "contract/lesson"), (200, *card.image_shape)
    coarse = F.interpolate(torch.rand(200, shape[1], 2, 2, generator=draws), shape[2:], mode="bilinear")
    flat = torch.rand(200, shape[1], 1, 1, generator=draws).expand(shape)
    return torch.cat((torch.rand(shape, generator=draws), coarse, flat))


@torch.no_grad()
def _sharpen(network: Network, images: Tensor) -> None:
    """Scale the last layer so that the logits differ from image to image, and no class is the guess for all.

    A network with fresh weights gives nearly the same answer to all images, and from it nothing could be learned.
    """
    logits, head = network(images), network.classifier
    scale = 4 / logits.std(dim=0).clamp(min=1e-6)
    head.weight.mul_(scale[:, None])
    if head.bias is not None:
        head.bias.copy_((head.bias - logits.mean(dim=0)) * scale)


@dataclass
class World:
    """A teacher, a student and all else that a run would have.

    Args:
        cache: the stage's cache folder.
        card: the dataset.
        seed: of the stage's random stream.
        student_seed: of the student's weights.
        precision: of both networks, and the context's.
        pair: what makes the bodies of teacher and student; None: two tiny ones of the kit's.
        device: where the stage works; everything is made on the CPU first, so that it is the same on each.
        attention: the kit's teacher is a transformer.
    """

    cache: Path
    card: DatasetCard = field(default_factory=make_card)
    seed: int = 0
    student_seed: int = 12
    precision: Precision = torch.float32
    pair: tuple[Build, Build] | None = None
    device: torch.device = CPU
    attention: bool = False
    teacher: Network = field(init=False)
    student: Network = field(init=False)

    def __post_init__(self) -> None:
        teacher, student = self.pair or (_tiny_transformer if self.attention else _tiny(8), _tiny(6))
        self.teacher = _network(self.card, teacher, 11, self.precision).requires_grad_(False)
        self.student = _network(self.card, student, self.student_seed, self.precision)
        images = _lesson(self.card)
        _sharpen(self.teacher, images)
        self._instruct(images)
        self.teacher, self.student = self.teacher.to(self.device), self.student.to(self.device)

    @torch.no_grad()
    def _instruct(self, images: Tensor) -> None:
        """Fit the student's last layer to the teacher's logits.

        Strangers agree nowhere on a class, and an adversary that looks only where they agree would have no effect.
        """
        seen, wanted = self.student.observe(images).features, self.teacher(images)
        known = torch.cat((seen, torch.ones(len(seen), 1)), dim=1)
        solution = torch.linalg.lstsq(known, wanted).solution
        head = self.student.classifier
        head.weight.copy_(solution[:-1].t())
        if head.bias is not None:
            head.bias.copy_(solution[-1])

    def context(self, generator: torch.Generator | None = None, *, wants: str | None = None) -> StageContext:
        """A stage's context; with `wants`, real-looking images of that dataset."""
        images = labels = None
        if wants is not None:
            own = wants == self.card.name
            shape = self.card.image_shape if own else (3, 16, 16)
            draws = stream(0, "contract/given")
            images = torch.randint(256, (64, *shape), generator=draws, dtype=torch.uint8)
            labels = torch.randint(self.card.num_classes, (64,), generator=draws) if own else None
        return StageContext(
            teacher=self.teacher,
            student=self.student,
            card=self.card,
            device=self.device,
            precision=self.precision,
            generator=generator or stream(self.seed, "contract/stage", self.device),
            ledger=CostLedger(self.device),
            cache=self.cache,
            tick=lambda done, total: None,
            images=images,
            labels=labels,
        )

    def batch(self, name: str, count: int = BATCH) -> SyntheticBatch:
        """Smooth colored images; the teacher gives three of four their target class."""
        draws = stream(0, f"contract/{name}")
        _, height, width = self.card.image_shape
        coarse = torch.rand(count, self.card.image_shape[0], 3, 3, generator=draws)
        images = F.interpolate(coarse, (height, width), mode="bilinear", align_corners=True).to(self.device)
        with torch.no_grad():
            targets = self.teacher(images).argmax(dim=1)
        targets[::4] = (targets[::4] + 1) % self.card.num_classes
        return SyntheticBatch(images, targets)

    def variants(self, source: SyntheticBatch) -> SyntheticBatch:
        """Four of each image, from nearly the same to hardly anything of it left."""
        index = torch.arange(len(source), device=self.device).repeat_interleave(4)
        far = torch.tensor([0.02, 0.2, 0.6, 1.0], device=self.device).repeat(len(source)).view(-1, 1, 1, 1)
        noise = torch.rand(len(index), *self.card.image_shape, generator=stream(0, "contract/noise")).to(self.device)
        return SyntheticBatch(source.images[index] * (1 - far) + far * noise, source.targets[index], index)

    def bank(self) -> ImageBank:
        """A bank of two batches."""
        bank = ImageBank(self.card.image_shape, self.device, stream(0, "contract/order", self.device))
        for name in ("one", "two"):
            bank.add(self.batch(name))
        return bank

    def weights(self, *names: str) -> dict[str, Any]:
        """Copies of the networks' weights and buffers, their modes, and what asks for a gradient."""
        found: dict[str, Any] = {}
        for name in names:
            network: Network = getattr(self, name)
            found |= {f"{name}.{key}": value.clone() for key, value in network.body.state_dict().items()}
            found |= {f"{name}.{key}.training": module.training for key, module in network.named_modules()}
        return found
