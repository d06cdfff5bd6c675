"""Quarter turns of images and their labels, for self-supervised heads."""

from __future__ import annotations

import torch
from torch import Tensor

from dfkd_bench.errors import DfkdError

__all__ = ["quarter_turns"]


def quarter_turns(images: Tensor) -> tuple[Tensor, Tensor]:
    """All four turns of square images [N, C, S, S]: [4N, C, S, S] and their labels 0..3 int64 [4N], image by image.

    Raises:
        DfkdError: the images are not square.
    """
    if images.shape[2] != images.shape[3]:
        raise DfkdError(f"quarter turns need square images, not {images.shape[2]}x{images.shape[3]}")
    turned = torch.stack([torch.rot90(images, k, dims=(2, 3)) for k in range(4)], dim=1)
    return turned.flatten(0, 1), torch.arange(4, device=images.device).repeat(len(images))
