"""Wide residual networks with pre-activation blocks, WRN-d-k (Zagoruyko & Komodakis, arXiv 1605.07146).

Parameter names follow the checkpoints that the field publishes (``block1.layer.0.convShortcut.weight``),
so that those load unchanged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["WideResNet", "wrn16_1", "wrn16_2", "wrn40_1", "wrn40_2"]


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.convShortcut = (
            None if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        activated = F.relu(self.bn1(x))
        # Where the width changes, the shortcut starts from the first activation; where it does not, from the raw input.
        shortcut = x if self.convShortcut is None else self.convShortcut(activated)
        hidden = F.relu(self.bn2(self.conv1(activated)))
        out: Tensor = self.conv2(hidden) + shortcut
        return out


class _Stage(nn.Module):
    def __init__(self, blocks: int, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.layer = nn.Sequential(
            *(
                _Block(in_channels if index == 0 else out_channels, out_channels, stride if index == 0 else 1)
                for index in range(blocks)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x)
        return out


class WideResNet(nn.Module):
    """WRN-``depth``-``width`` for small images of any size that three stages with strides 1, 2, 2 can take.

    Args:
        depth: 6n + 4.
        width: the widening factor k; the penultimate feature has 64k channels.
        num_classes: length of the logits.
        in_channels: channels of the images (3, or 1 for gray ones).
    """

    #: Modules whose outputs are the spatial feature maps of stages 1 to 3, before the last BN and ReLU.
    stages = ("block1", "block2", "block3")

    def __init__(self, depth: int, width: int, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if (depth - 4) % 6:
            raise ValueError(f"a WRN's depth must be 6n + 4, not {depth}")
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(in_channels, 16, 3, 1, 1, bias=False)
        self.block1 = _Stage(blocks, 16, 16 * width, 1)
        self.block2 = _Stage(blocks, 16 * width, 32 * width, 2)
        self.block3 = _Stage(blocks, 32 * width, 64 * width, 2)
        self.bn1 = nn.BatchNorm2d(64 * width)
        self.fc = nn.Linear(64 * width, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.kernel_size[0] * module.kernel_size[1] * module.out_channels
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / fan_out))
        nn.init.zeros_(self.fc.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of normalized images [N, C, H, W]."""
        x = self.block3(self.block2(self.block1(self.conv1(x))))
        pooled = torch.flatten(F.adaptive_avg_pool2d(F.relu(self.bn1(x)), 1), 1)
        logits: Tensor = self.fc(pooled)
        return logits


def wrn16_1(num_classes: int, in_channels: int = 3) -> WideResNet:
    """WRN-16-1: 175,066 parameters for 10 classes of RGB images."""
    return WideResNet(16, 1, num_classes, in_channels)


def wrn16_2(num_classes: int, in_channels: int = 3) -> WideResNet:
    """WRN-16-2: 691,674 parameters for 10 classes of RGB images."""
    return WideResNet(16, 2, num_classes, in_channels)


def wrn40_1(num_classes: int, in_channels: int = 3) -> WideResNet:
    """WRN-40-1: 563,930 parameters for 10 classes of RGB images."""
    return WideResNet(40, 1, num_classes, in_channels)


def wrn40_2(num_classes: int, in_channels: int = 3) -> WideResNet:
    """WRN-40-2: 2,243,546 parameters for 10 classes of RGB images."""
    return WideResNet(40, 2, num_classes, in_channels)
