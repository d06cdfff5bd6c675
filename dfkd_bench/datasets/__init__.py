"""Datasets: what a method may know of one (its card) and, for training teachers and for evaluation, its images.

Importing this package imports no torch; the modules that hold images are imported when they are needed.
"""

from __future__ import annotations

from dfkd_bench.datasets.card import DatasetCard, TrainTransform

__all__ = ["DatasetCard", "TrainTransform"]
