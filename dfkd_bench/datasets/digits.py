"""scikit-learn's handwritten digits: 1,797 gray images that come with the package, for quick runs and tests.

The 8x8 images of levels 0 to 16 become 16x16 images of levels 0 to 255 by bilinear interpolation, computed in integers
so that every machine gets the same bytes. The test split holds the third of every five images of a class, in
scikit-learn's order: 359 images, every class in proportion. Writers occur in both splits, so it is an easy test.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from dfkd_bench.datasets.guard import check_open
from dfkd_bench.datasets.split import Split, check_split_name

__all__ = ["load"]


def load(split: str, data_root: Path | None = None) -> Split:
    """The digits' `train` or `test` split: images uint8 [N, 1, 16, 16]. `data_root` is not needed.

    Raises:
        DataFreeViolationError: a method is at work.
        ValueError: the split is unknown.
    """
    check_open()
    check_split_name(split)
    digits = load_digits()
    labels = digits.target.astype(np.int64)
    chosen = _in_test(labels) if split == "test" else ~_in_test(labels)
    images = _enlarge(digits.images[chosen].astype(np.int64))
    return Split.of(torch.from_numpy(images[:, None]), torch.from_numpy(labels[chosen]))


def _in_test(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    chosen = np.zeros(len(labels), dtype=bool)
    for label in np.unique(labels):
        chosen[np.flatnonzero(labels == label)[2::5]] = True
    return chosen


def _enlarge(levels: NDArray[np.int64]) -> NDArray[np.uint8]:
    """[N, H, W] of 0..16 to [N, 2H, 2W] of 0..255: bilinear with half-pixel centers, edges repeated."""
    for axis in (1, 2):
        levels = _double(levels, axis)
    # Each doubling multiplied by 4, so 256 is full white.
    return ((levels * 255 + 128) // 256).astype(np.uint8)


def _double(levels: NDArray[np.int64], axis: int) -> NDArray[np.int64]:
    levels = np.moveaxis(levels, axis, -1)
    padded = np.concatenate([levels[..., :1], levels, levels[..., -1:]], axis=-1)
    pairs = np.stack([3 * levels + padded[..., :-2], 3 * levels + padded[..., 2:]], axis=-1)
    return np.moveaxis(pairs.reshape(*levels.shape[:-1], -1), -1, axis)
