"""The picture that each run leaves of what was synthesized."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from dfkd_bench.files import replacing
from dfkd_bench.stages.bank import ImageBank, SyntheticBatch, quantize

__all__ = ["Gallery"]

_COLUMNS = 16
_KEPT, _DROPPED, _PAPER, _INK = (46, 139, 87), (200, 60, 60), (255, 255, 255), (30, 30, 30)


class Gallery:
    """Collects a few images on their way: the first and the last synthesized ones, and variants under their sources."""

    def __init__(self) -> None:
        self._parts: dict[str, Tensor] = {}

    def saw(self, batch: SyntheticBatch) -> None:
        """A round was synthesized. Spread over the batch, since many synthesizers sort theirs by class."""
        images = quantize(_spread(batch.images, 2 * _COLUMNS)).cpu()
        self._parts.setdefault("first", images)
        self._parts["last"] = images

    def saw_variants(self, source: SyntheticBatch, augmented: SyntheticBatch, keep: Tensor) -> None:
        """A batch was augmented and filtered; the first one is shown."""
        if "variants" in self._parts or augmented.source is None:
            return
        index = _spread(torch.arange(len(augmented), device=keep.device), _COLUMNS)
        self._parts["variants"] = quantize(augmented.images[index]).cpu()
        first = augmented.source.view(len(augmented), -1)[:, 0]
        self._parts["sources"] = quantize(source.images[first[index]]).cpu()
        self._parts["kept"] = keep[index].cpu()

    def write(self, path: Path, bank: ImageBank, title: str) -> str | None:
        """Draw what was seen as a PNG; the name of the file, None if nothing was."""
        if "first" not in self._parts:
            return None
        panels: list[tuple[str, Tensor, Tensor | None]] = [("synthesized, first round", self._parts["first"], None)]
        if not torch.equal(self._parts["first"], self._parts["last"]):
            panels.append(("synthesized, last round", self._parts["last"], None))
        if "variants" in self._parts:
            panels.append(("sources of the variants below", self._parts["sources"], None))
            panels.append(
                ("variants (green: kept, red: dropped by the filter)", self._parts["variants"], self._parts["kept"])
            )
        if len(bank):
            panels.append(("in the bank at the end, evenly spaced", _spread(bank.images, 2 * _COLUMNS).cpu(), None))
        with replacing(path) as temporary:
            _draw(title, panels).save(temporary, format="PNG")
        return path.name

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume."""
        return dict(self._parts)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""
        self._parts = dict(state)


def _spread(items: Tensor, most: int) -> Tensor:
    if len(items) <= most:
        return items
    return items[torch.linspace(0, len(items) - 1, most, device=items.device).long()]


def _draw(title: str, panels: list[tuple[str, Tensor, Tensor | None]]) -> Image.Image:
    height, width = panels[0][1].shape[-2:]
    scale = max(1, 48 // max(height, width))
    cell_w, cell_h, caption = width * scale + 6, height * scale + 6, 18
    rows = [-(-len(images) // _COLUMNS) for _, images, _ in panels]
    sheet = Image.new("RGB", (_COLUMNS * cell_w + 12, 30 + sum(caption + r * cell_h + 8 for r in rows)), _PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((8, 8), title, fill=_INK)
    top = 30
    for (name, images, kept), count in zip(panels, rows, strict=True):
        pen.text((8, top), name, fill=_INK)
        top += caption
        for at, image in enumerate(images):
            x, y = 8 + at % _COLUMNS * cell_w, top + at // _COLUMNS * cell_h
            if kept is not None:
                pen.rectangle(
                    (x - 2, y - 2, x + width * scale + 1, y + height * scale + 1), fill=_KEPT if kept[at] else _DROPPED
                )
            sheet.paste(_picture(image).resize((width * scale, height * scale), Image.Resampling.NEAREST), (x, y))
        top += count * cell_h + 8
    return sheet


def _picture(image: Tensor) -> Image.Image:
    pixels: np.ndarray[Any, np.dtype[np.uint8]] = image.permute(1, 2, 0).numpy()
    if pixels.shape[2] == 1:
        return Image.fromarray(pixels[:, :, 0], mode="L")
    return Image.fromarray(np.ascontiguousarray(pixels[:, :, :3]))
