"""MobileNetV2 (Sandler et al., arXiv 1801.04381) in the two variants that the field uses.

`mobilenetv2` has the full width and torchvision's layout (ReLU6, ``features.*``); an image of 32 pixels ends as a
1x1 map. `mobilenetv2_half` has half the width in the blocks, fewer strides and plain ReLU (``blocks.*``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["MobileNetV2", "MobileNetV2Half", "mobilenetv2", "mobilenetv2_half"]


def _initialize(model: nn.Module) -> None:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out")
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, 0.0, 0.01)
            nn.init.zeros_(module.bias)


def _conv_bn_relu6(in_channels: int, out_channels: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU6())


class _InvertedResidual(nn.Module):
    """Torchvision's block: it does not expand where `expansion` is 1."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        expand = [] if expansion == 1 else [_conv_bn_relu6(in_channels, hidden, 1)]
        self.conv = nn.Sequential(
            *expand,
            _conv_bn_relu6(hidden, hidden, 3, stride, groups=hidden),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.skips = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.skips else out


class MobileNetV2(nn.Module):
    """MobileNetV2 x1.0, which halves an image five times.

    Args:
        num_classes: length of the logits.
        in_channels: channels of the images (3, or 1 for gray ones).
    """

    #: The last block at each resolution; the last one is followed by the 1x1 convolution to 1280 channels.
    stages = ("features.1", "features.3", "features.6", "features.13", "features.17")

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        layers: list[nn.Module] = [_conv_bn_relu6(in_channels, 32, 3, 2)]
        width = 32
        # Expansion, width, number of blocks, stride of the first.
        for expansion, out_channels, blocks, stride in (
            (1, 16, 1, 1),
            (6, 24, 2, 2),
            (6, 32, 3, 2),
            (6, 64, 4, 2),
            (6, 96, 3, 1),
            (6, 160, 3, 2),
            (6, 320, 1, 1),
        ):
            for index in range(blocks):
                layers.append(_InvertedResidual(width, out_channels, stride if index == 0 else 1, expansion))
                width = out_channels
        self.features = nn.Sequential(*layers, _conv_bn_relu6(width, 1280, 1))
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of normalized images [N, C, H, W]."""
        x = self.features(x)
        logits: Tensor = self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


class _HalfBlock(nn.Module):
    """The half-width network's block: plain ReLU, and an expanding convolution even where `expansion` is 1."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(in_channels, hidden, 1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, hidden, 3, stride, 1, groups=hidden, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )
        self.skips = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.skips else out


class MobileNetV2Half(nn.Module):
    """MobileNetV2 x0.5, which halves an image four times.

    Args:
        num_classes: length of the logits.
        in_channels: channels of the images (3, or 1 for gray ones).
    """

    #: The last stage of blocks at each resolution; the last one is followed by the 1x1 convolution to 1280 channels.
    stages = ("blocks.1", "blocks.2", "blocks.4", "blocks.6")

    def __init__(self, num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(in_channels, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        stages: list[nn.Module] = []
        width = 16
        # Expansion, width, number of blocks, stride of the first.
        for expansion, out_channels, blocks, stride in (
            (1, 8, 1, 1),
            (6, 12, 2, 1),
            (6, 16, 3, 2),
            (6, 32, 4, 2),
            (6, 48, 3, 1),
            (6, 80, 3, 2),
            (6, 160, 1, 1),
        ):
            later = (_HalfBlock(out_channels, out_channels, 1, expansion) for _ in range(blocks - 1))
            stages.append(nn.Sequential(_HalfBlock(width, out_channels, stride, expansion), *later))
            width = out_channels
        self.blocks = nn.Sequential(*stages)
        self.conv2 = nn.Sequential(nn.Conv2d(width, 1280, 1, bias=False), nn.BatchNorm2d(1280), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(1280, num_classes))
        _initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of normalized images [N, C, H, W]."""
        x = self.conv2(self.blocks(self.conv1(x)))
        logits: Tensor = self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def mobilenetv2(num_classes: int, in_channels: int = 3) -> MobileNetV2:
    """MobileNetV2 x1.0: 2,236,682 parameters for 10 classes of RGB images."""
    return MobileNetV2(num_classes, in_channels)


def mobilenetv2_half(num_classes: int, in_channels: int = 3) -> MobileNetV2Half:
    """MobileNetV2 x0.5: 697,546 parameters for 10 classes of RGB images."""
    return MobileNetV2Half(num_classes, in_channels)
