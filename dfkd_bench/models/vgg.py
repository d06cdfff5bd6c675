"""VGG networks with batch normalization for small images (Simonyan & Zisserman, arXiv 1409.1556).

Parameter names follow the checkpoints that the field publishes (``block2.3.weight``, ``classifier.weight``), so that
those load unchanged. The last ReLU of each block stands outside it, as ``relu0`` to ``relu4``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["VGG", "vgg8", "vgg11", "vgg13", "vgg16", "vgg19"]


def _block(in_channels: int, width: int, convs: int) -> nn.Sequential:
    """`convs` times conv-BN, with a ReLU between two of them but none at the end."""
    layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, 1, 1), nn.BatchNorm2d(width)]
    for _ in range(convs - 1):
        layers += [nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width)]
    return nn.Sequential(*layers)


class VGG(nn.Module):
    """Five blocks of convolutions, 64, 128, 256, 512 and 512 wide, and one linear layer.

    Max-pooling halves the map after blocks 0, 1 and 2; after block 3 only if the image is 64 pixels high, so that
    block 4 works on 4x4 maps for images of 32 and of 64 pixels.

    Args:
        convs: how many convolutions each block has.
        num_classes: length of the logits.
        in_channels: channels of the images (3, or 1 for gray ones).
    """

    #: Modules whose outputs are the spatial feature maps of blocks 0 to 4, after ReLU and before pooling.
    stages = ("relu0", "relu1", "relu2", "relu3", "relu4")

    def __init__(self, convs: tuple[int, int, int, int, int], num_classes: int, in_channels: int = 3) -> None:
        super().__init__()
        self.block0 = _block(in_channels, 64, convs[0])
        self.relu0 = nn.ReLU()
        self.block1 = _block(64, 128, convs[1])
        self.relu1 = nn.ReLU()
        self.block2 = _block(128, 256, convs[2])
        self.relu2 = nn.ReLU()
        self.block3 = _block(256, 512, convs[3])
        self.relu3 = nn.ReLU()
        self.block4 = _block(512, 512, convs[4])
        self.relu4 = nn.ReLU()
        self.classifier = nn.Linear(512, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, 0.0, math.sqrt(2.0 / (9 * module.out_channels)))
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.classifier.weight, 0.0, 0.01)
        nn.init.zeros_(self.classifier.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of normalized images [N, C, H, W]."""
        height = x.shape[2]
        x = F.max_pool2d(self.relu0(self.block0(x)), 2)
        x = F.max_pool2d(self.relu1(self.block1(x)), 2)
        x = F.max_pool2d(self.relu2(self.block2(x)), 2)
        x = self.relu3(self.block3(x))
        if height == 64:
            x = F.max_pool2d(x, 2)
        x = self.relu4(self.block4(x))
        logits: Tensor = self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))
        return logits


def vgg8(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-8 with BN: 3,918,858 parameters for 10 classes of RGB images."""
    return VGG((1, 1, 1, 1, 1), num_classes, in_channels)


def vgg11(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-11 with BN: 9,231,114 parameters for 10 classes of RGB images."""
    return VGG((1, 1, 2, 2, 2), num_classes, in_channels)


def vgg13(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-13 with BN: 9,416,010 parameters for 10 classes of RGB images."""
    return VGG((2, 2, 2, 2, 2), num_classes, in_channels)


def vgg16(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-16 with BN: 14,728,266 parameters for 10 classes of RGB images."""
    return VGG((2, 2, 3, 3, 3), num_classes, in_channels)


def vgg19(num_classes: int, in_channels: int = 3) -> VGG:
    """VGG-19 with BN: 20,040,522 parameters for 10 classes of RGB images."""
    return VGG((2, 2, 4, 4, 4), num_classes, in_channels)
