"""Image generators of the field. All end in a sigmoid: images in [0, 1]."""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

__all__ = ["Generator", "doubling_layers", "placed", "quarter", "reset_generator"]

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class Generator(nn.Module):
    """The generator of CMI, FastDFKD and CSD: latent [N, nz] -> images [N, C, H, W] in [0, 1].

    Linear to `first` maps at a quarter of the size, then two nearest-neighbor doublings. For 3 x 32 x 32 images and
    nz = 256 it has 2,328,899 parameters with first = 128, and 4,581,955 with first = 256, the wider one of DAFL, ZSKT
    and DFQ in the CMI lineage.

    Args:
        latent_dim: nz.
        image_shape: channels, height, width. Sides that 4 does not divide are cut from the next larger that it does.
        first: channels of the linear layer's output.
    """

    def __init__(self, latent_dim: int, image_shape: tuple[int, int, int], first: int = 128) -> None:
        super().__init__()
        channels, self._height, self._width = image_shape
        self._start = quarter(first, image_shape)
        self.l1 = nn.Sequential(nn.Linear(latent_dim, math.prod(self._start)))
        self.conv_blocks = nn.Sequential(nn.BatchNorm2d(first), *doubling_layers(first, channels))

    def forward(self, latent: Tensor) -> Tensor:
        """Images in [0, 1]."""
        images: Tensor = self.conv_blocks(self.l1(latent).view(len(latent), *self._start))
        return images[..., : self._height, : self._width]


def placed(generator: ModuleT, device: torch.device) -> ModuleT:
    """Itself on `device`; on a GPU channels-last, in which convolutions are fastest there."""
    generator.to(device)
    # On a CPU its last digits would be others.
    return generator.to(memory_format=torch.channels_last) if device.type == "cuda" else generator


def quarter(first: int, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """Channels, height and width of the maps that two doublings make at least as large as the images."""
    return first, -(-image_shape[1] // 4), -(-image_shape[2] // 4)


def doubling_layers(first: int, channels: int) -> list[nn.Module]:
    """The convolutions that all these generators share: [N, first, H/4, W/4] -> [N, channels, H, W] in [0, 1]."""
    return [
        nn.Upsample(scale_factor=2),
        nn.Conv2d(first, 128, 3, 1, 1, bias=False),
        nn.BatchNorm2d(128),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Upsample(scale_factor=2),
        nn.Conv2d(128, 64, 3, 1, 1, bias=False),
        nn.BatchNorm2d(64),
        nn.LeakyReLU(0.2, inplace=True),
        nn.Conv2d(64, channels, 3, 1, 1),
        nn.Sigmoid(),
    ]


def reset_generator(module: nn.Module, generator: torch.Generator) -> None:
    """CMI's re-initialization: weights ~ N(0, 0.02), biases 0, BatchNorm scales ~ N(1, 0.02).

    Running statistics are left: the generator runs in training mode.
    """
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                layer.weight.normal_(0.0, 0.02, generator=generator)
                if layer.bias is not None:
                    layer.bias.zero_()
            elif isinstance(layer, nn.BatchNorm2d):
                layer.weight.normal_(1.0, 0.02, generator=generator)
                layer.bias.zero_()
