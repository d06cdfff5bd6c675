"""Random views of images [N, C, H, W], one draw per image, differentiable, on the device."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from dfkd_bench.card import TrainTransform

__all__ = ["crop_and_flip", "jitter_and_flip", "random_resized_crop"]


def crop_and_flip(images: Tensor, transform: TrainTransform, generator: torch.Generator) -> Tensor:
    """Zero-pad, crop back at a place of each image's own, mirror each with probability one half if the card says so.

    Works on bytes as well as on floats; padding is black because it happens before normalization.
    """
    count, _, height, width = images.shape
    device, pad = images.device, transform.padding
    rows = torch.arange(height, device=device).expand(count, -1)
    columns = torch.arange(width, device=device).expand(count, -1)
    if transform.flip:
        mirror = torch.rand(count, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirror, columns.flip(1), columns)
    if pad:
        offsets = torch.randint(2 * pad + 1, (2, count, 1), generator=generator, device=device)
        rows, columns = rows + offsets[0], columns + offsets[1]
        images = F.pad(images, (pad, pad, pad, pad))
    elif not transform.flip:
        return images
    return _gather(images, rows, columns)


class _Picked(torch.autograd.Function):
    """`values.gather(2, index)` where no index comes twice: the way back writes each gradient to its place.

    Autograd's would add to it, on a GPU atomically, in an order that changes from one time to the next.
    """

    @staticmethod
    def forward(ctx: Any, values: Tensor, index: Tensor) -> Tensor:
        ctx.save_for_backward(index)
        ctx.shape = values.shape
        return values.gather(2, index)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        return slope.new_zeros(ctx.shape).scatter_(2, index, slope), None


def _gather(images: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Of each image the pixels at its rows [N, H'] and columns [N, W']; one row of either stands for all images.

    No row and no column of an image may come twice.
    """
    count, channels, _, width = images.shape
    places = rows[:, :, None] * width + columns[:, None, :]
    # Several times as fast on a CPU, there and back, as indexing with tensors.
    index = places.flatten(1)[:, None].expand(count, channels, -1)
    picked: Tensor = _Picked.apply(images.flatten(2), index)
    return picked.view(count, channels, rows.shape[1], columns.shape[1])


def jitter_and_flip(images: Tensor, shift: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Roll the whole batch by one offset in -shift..shift each way, and mirror all of it with probability one half.

    DeepInversion's augmentation: one draw for the batch, around the edges.
    """
    device, (height, width) = images.device, images.shape[-2:]
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    if shift:
        offsets = torch.randint(-shift, shift + 1, (2,), generator=generator, device=device)
        # Index tensors in place of torch.roll, whose Python integers would wait for the device.
        rows, columns = (rows - offsets[0]) % height, (columns - offsets[1]) % width
    if flip:
        mirror = torch.rand((), generator=generator, device=device) < 0.5
        columns = torch.where(mirror, columns.flip(0), columns)
    return _gather(images, rows[None], columns[None])


def random_resized_crop(
    images: Tensor,
    generator: torch.Generator,
    *,
    scale: tuple[float, float] = (0.25, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    flip: bool = False,
    attempts: int = 10,
) -> Tensor:
    """A box of each image's own, `scale` of its area and `ratio` wide, brought back to full size.

    Bilinear with aligned corners. Of `attempts` boxes the first that fits is taken, else the whole image.
    """
    count, _, height, width = images.shape
    device = images.device
    draws = torch.rand(4, attempts, count, generator=generator, device=device)
    area = height * width * (scale[0] + (scale[1] - scale[0]) * draws[0])
    aspect = torch.exp(math.log(ratio[0]) + (math.log(ratio[1]) - math.log(ratio[0])) * draws[1])
    box_width, box_height = (area * aspect).sqrt(), (area / aspect).sqrt()
    fits = (box_width <= width) & (box_height <= height)
    first = fits.to(torch.int8).argmax(dim=0, keepdim=True)
    found = fits.any(dim=0)
    box_width = torch.where(found, box_width.gather(0, first)[0], torch.full_like(area[0], width))
    box_height = torch.where(found, box_height.gather(0, first)[0], torch.full_like(area[0], height))
    left, top = draws[2, 0] * (width - box_width), draws[3, 0] * (height - box_height)
    columns = left[:, None] + torch.linspace(0, 1, width, device=device) * (box_width - 1).clamp(min=0)[:, None]
    rows = top[:, None] + torch.linspace(0, 1, height, device=device) * (box_height - 1).clamp(min=0)[:, None]
    if flip:
        mirror = torch.rand(count, 1, generator=generator, device=device) < 0.5
        columns = torch.where(mirror, columns.flip(1), columns)
    x = (2 * columns / (width - 1) - 1)[:, None, :].expand(-1, height, -1)
    y = (2 * rows / (height - 1) - 1)[:, :, None].expand(-1, -1, width)
    return F.grid_sample(images, torch.stack((x, y), dim=-1), mode="bilinear", align_corners=True)
