"""The thin residual networks of depth 6n + 2 for small images (He et al., arXiv 1512.03385).

They have three stages of basic blocks and 1x1 convolutions where the shape changes. The variants ending in ``x4``
are four times as wide, with a stem of 32 channels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "CifarResNet",
    "resnet8",
    "resnet8x4",
    "resnet20",
    "resnet32",
    "resnet32x4",
    "resnet56",
    "resnet110",
]


class _Block(nn.Module):
    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.downsample = (
            None
            if stride == 1 and in_channels == out_channels
            else nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(hidden)) + shortcut)


def _stage(blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    later = (_Block(out_channels, out_channels, 1) for _ in range(blocks - 1))
    return nn.Sequential(_Block(in_channels, out_channels, stride), *later)


class CifarResNet(nn.Module):
    """A residual network of three stages with strides 1, 2, 2.

    Args:
        depth: 6n + 2.
        widths: channels of the stem and of the three stages.
        num_classes: length of the logits.
        in_channels: channels of the images (3, or 1 for gray ones).
    """

    #: Modules whose outputs are the spatial feature maps of stages 1 to 3, after the last ReLU of each.
    stages = ("layer1", "layer2", "layer3")

    def __init__(self, depth: int, widths: tuple[int, int, int, int], num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        if depth < 8 or (depth - 2) % 6:
            raise ValueError(f"the depth of a thin ResNet must be 6n + 2, not {depth}")
        blocks = (depth - 2) // 6
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.layer1 = _stage(blocks, widths[0], widths[1], 1)
        self.layer2 = _stage(blocks, widths[1], widths[2], 2)
        self.layer3 = _stage(blocks, widths[2], widths[3], 2)
        self.fc = nn.Linear(widths[3], num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of normalized images [N, C, H, W]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        logits: Tensor = self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


_THIN = (16, 16, 32, 64)
_WIDE = (32, 64, 128, 256)


def resnet8(num_classes: int, in_channels: int = 3) -> CifarResNet:
    """ResNet-8: 78,042 parameters for 10 classes of RGB images."""
    return CifarResNet(8, _THIN, num_classes, in_channels)


def resnet20(num_classes: int, in_channels: int = 3) -> CifarResNet:
    """ResNet-20: 272,474 parameters for 10 classes of RGB images."""
    return CifarResNet(20, _THIN, num_classes, in_channels)


def resnet32(num_classes: int, in_channels: int = 3) -> CifarResNet:
    """ResNet-32: 466,906 parameters for 10 classes of RGB images."""
    return CifarResNet(32, _THIN, num_classes, in_channels)


def resnet56(num_classes: int, in_channels: int = 3) -> CifarResNet:
    """ResNet-56: 855,770 parameters for 10 classes of RGB images."""
    return CifarResNet(56, _THIN, num_classes, in_channels)


def resnet110(num_classes: int, in_channels: int = 3) -> CifarResNet:
    """ResNet-110: 1,730,714 parameters for 10 classes of RGB images."""
    return CifarResNet(110, _THIN, num_classes, in_channels)


def resnet8x4(num_classes: int, in_channels: int = 3) -> CifarResNet:
    """ResNet-8, four times as wide: 1,210,410 parameters for 10 classes of RGB images."""
    return CifarResNet(8, _WIDE, num_classes, in_channels)


def resnet32x4(num_classes: int, in_channels: int = 3) -> CifarResNet:
    """ResNet-32, four times as wide: 7,410,730 parameters for 10 classes of RGB images."""
    return CifarResNet(32, _WIDE, num_classes, in_channels)
