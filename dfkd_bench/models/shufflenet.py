"""ShuffleNetV2 x1 with a stem for small images (Ma et al., arXiv 1807.11164).

The stem is a 1x1 convolution of stride 1, and there is no max-pooling: an image is halved three times.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["ShuffleNetV2", "shufflenetv2"]


def _shuffle(x: Tensor) -> Tensor:
    """Interleave the two halves of the channels."""
    batch, channels, height, width = x.shape
    return x.reshape(batch, 2, channels // 2, height, width).transpose(1, 2).flatten(1, 2)


class _Block(nn.Module):
    """Leaves half of the channels as they are and sends the other half through 1x1, depthwise 3x3, 1x1."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1 = nn.Conv2d(half, half, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(half)
        self.conv2 = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(half, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        kept, hidden = x.chunk(2, 1)
        hidden = F.relu(self.bn1(self.conv1(hidden)))
        hidden = self.bn2(self.conv2(hidden))
        hidden = F.relu(self.bn3(self.conv3(hidden)))
        return _shuffle(torch.cat([kept, hidden], 1))


class _DownBlock(nn.Module):
    """Halves the map in two branches: depthwise 3x3, 1x1 on the left; 1x1, depthwise 3x3, 1x1 on the right."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        half = out_channels // 2
        self.conv1 = nn.Conv2d(in_channels, in_channels, 3, 2, 1, groups=in_channels, bias=False)
        self.bn1 = nn.BatchNorm2d(in_channels)
        self.conv2 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(half)
        self.conv3 = nn.Conv2d(in_channels, half, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(half)
        self.conv4 = nn.Conv2d(half, half, 3, 2, 1, groups=half, bias=False)
        self.bn4 = nn.BatchNorm2d(half)
        self.conv5 = nn.Conv2d(half, half, 1, bias=False)
        self.bn5 = nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = self.bn1(self.conv1(x))
        left = F.relu(self.bn2(self.conv2(left)))
        right = F.relu(self.bn3(self.conv3(x)))
        right = self.bn4(self.conv4(right))
        right = F.relu(self.bn5(self.conv5(right)))
        return _shuffle(torch.cat([left, right], 1))


def _stage(blocks: int, in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(_DownBlock(in_channels, out_channels), *(_Block(out_channels) for _ in range(blocks)))


class ShuffleNetV2(nn.Module):
    """ShuffleNetV2 x1.

    Args:
        num_classes: length of the logits.
        in_channels: channels of the images (3, or 1 for gray ones).
    """

    #: Modules whose outputs are the maps of stages 1 to 3; a 1x1 convolution to 1024 channels follows the last one.
    stages = ("layer1", "layer2", "layer3")

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, 24, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(24)
        self.layer1 = _stage(3, 24, 116)
        self.layer2 = _stage(7, 116, 232)
        self.layer3 = _stage(3, 232, 464)
        self.conv2 = nn.Conv2d(464, 1024, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(1024)
        self.linear = nn.Linear(1024, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of normalized images [N, C, H, W]."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        logits: Tensor = self.linear(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def shufflenetv2(num_classes: int, in_channels: int = 3) -> ShuffleNetV2:
    """ShuffleNetV2 x1: 1,263,278 parameters for 10 classes of RGB images."""
    return ShuffleNetV2(num_classes, in_channels)
