"""Image generators of the field. All end in a sigmoid: images in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["Generator", "reset_generator"]


class Generator(nn.Module):
    """The generator of CMI, FastDFKD and CSD: latent [N, nz] -> images [N, C, H, W] in [0, 1].

    Linear to 128 maps at a quarter of the size, then two nearest-neighbour doublings. 2,328,899 parameters for
    nz = 256 and 3 x 32 x 32 images.

    Args:
        latent_dim: nz.
        image_shape: channels, height, width; height and width divisible by 4.
        width: ngf, the channels of the last hidden layer.

    Raises:
        ValueError: the height or width is not divisible by 4.
    """

    def __init__(self, latent_dim: int, image_shape: tuple[int, int, int], width: int = 64) -> None:
        super().__init__()
        channels, height, image_width = image_shape
        if height % 4 or image_width % 4:
            raise ValueError(f"the generator makes images whose sides are divisible by 4, not {height}x{image_width}")
        self._start = (2 * width, height // 4, image_width // 4)
        self.l1 = nn.Sequential(nn.Linear(latent_dim, 2 * width * (height // 4) * (image_width // 4)))
        self.conv_blocks = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(2 * width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(2 * width, width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(width, channels, 3, 1, 1),
            nn.Sigmoid(),
        )

    def forward(self, latent: Tensor) -> Tensor:
        """Images in [0, 1]."""
        start = self.l1(latent).view(len(latent), *self._start)
        images: Tensor = self.conv_blocks(start)
        return images


def reset_generator(module: nn.Module, generator: torch.Generator) -> None:
    """CMI's re-initialisation: weights ~ N(0, 0.02), biases 0, BatchNorm scales ~ N(1, 0.02).

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
