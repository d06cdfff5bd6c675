"""Residual networks with a stem for small images: ResNet-18, -34 and -50 (He et al., arXiv 1512.03385).

The stem is a 3x3 convolution of stride 1 without max-pooling. Parameter names follow the checkpoints that the
field publishes (``layer2.0.shortcut.0.weight``, ``linear.weight``), so that those load unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ResNet", "resnet18", "resnet34", "resnet50"]


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """The identity (an empty sequence) unless the block changes the shape."""
    if stride == 1 and in_channels == out_channels:
        return nn.Sequential()
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels))


class _BasicBlock(nn.Module):
    expansion = 1

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(in_channels, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(hidden)) + self.shortcut(x))


class _Bottleneck(nn.Module):
    expansion = 4

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.shortcut = _shortcut(in_channels, 4 * width, stride)

    def forward(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(x)))
        hidden = F.relu(self.bn2(self.conv2(hidden)))
        return F.relu(self.bn3(self.conv3(hidden)) + self.shortcut(x))


class ResNet(nn.Module):
    """A residual network of four stages with strides 1, 2, 2, 2 behind a stem of stride 1.

    Args:
        block: the residual block; its `expansion` is the ratio of its output's width to its own.
        blocks: how many of them each stage has.
        num_classes: length of the logits.
        in_channels: channels of the images (3, or 1 for gray ones).
    """

    #: Modules whose outputs are the spatial feature maps of stages 1 to 4, after the last ReLU of each.
    stages = ("layer1", "layer2", "layer3", "layer4")

    def __init__(
        self,
        block: type[_BasicBlock] | type[_Bottleneck],
        blocks: tuple[int, int, int, int],
        num_classes: int,
        in_channels: int = 3,
    ) -> None:
        super().__init__()

        def stage(count: int, inputs: int, width: int, stride: int) -> nn.Sequential:
            later = (block(width * block.expansion, width, 1) for _ in range(count - 1))
            return nn.Sequential(block(inputs, width, stride), *later)

        self.conv1 = nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = stage(blocks[0], 64, 64, 1)
        self.layer2 = stage(blocks[1], 64 * block.expansion, 128, 2)
        self.layer3 = stage(blocks[2], 128 * block.expansion, 256, 2)
        self.layer4 = stage(blocks[3], 256 * block.expansion, 512, 2)
        self.linear = nn.Linear(512 * block.expansion, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of normalized images [N, C, H, W]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def resnet18(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-18: 11,173,962 parameters for 10 classes of RGB images."""
    return ResNet(_BasicBlock, (2, 2, 2, 2), num_classes, in_channels)


def resnet34(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-34: 21,282,122 parameters for 10 classes of RGB images."""
    return ResNet(_BasicBlock, (3, 4, 6, 3), num_classes, in_channels)


def resnet50(num_classes: int, in_channels: int = 3) -> ResNet:
    """ResNet-50: 23,520,842 parameters for 10 classes of RGB images."""
    return ResNet(_Bottleneck, (3, 4, 6, 3), num_classes, in_channels)
