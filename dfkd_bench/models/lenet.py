"""LeNet-5 with ReLU and max-pooling, and the network of half its width, for gray images of 32 pixels or more.

They have no batch normalization, so a method that matches a teacher's BN statistics cannot use them as teachers.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["LeNet", "lenet5", "lenet5_half"]


class LeNet(nn.Module):
    """Three 5x5 convolutions and two linear layers.

    Args:
        widths: channels of the three convolutions and of the first linear layer.
        num_classes: length of the logits.
        in_channels: channels of the images (1 for gray ones, or 3).
    """

    #: Modules whose outputs are the spatial feature maps of the three convolutions, after ReLU and before pooling.
    stages = ("relu1", "relu2", "relu3")

    def __init__(self, widths: tuple[int, int, int, int], num_classes: int, in_channels: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, widths[0], 5)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(widths[1], widths[2], 5)
        self.relu3 = nn.ReLU()
        self.fc1 = nn.Linear(widths[2], widths[3])
        self.fc2 = nn.Linear(widths[3], num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, K] of normalized images [N, C, H, W]."""
        x = F.max_pool2d(self.relu1(self.conv1(x)), 2)
        x = F.max_pool2d(self.relu2(self.conv2(x)), 2)
        x = self.relu3(self.conv3(x))
        hidden = F.relu(self.fc1(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1)))
        logits: Tensor = self.fc2(hidden)
        return logits


def lenet5(num_classes: int, in_channels: int = 1) -> LeNet:
    """LeNet-5: 61,706 parameters for 10 classes of gray images."""
    return LeNet((6, 16, 120, 84), num_classes, in_channels)


def lenet5_half(num_classes: int, in_channels: int = 1) -> LeNet:
    """LeNet-5 of half the width: 15,738 parameters for 10 classes of gray images."""
    return LeNet((3, 8, 60, 42), num_classes, in_channels)
