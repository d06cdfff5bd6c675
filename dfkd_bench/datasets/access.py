"""Datasets by name. Only teacher training and evaluation open one; a method gets the card."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dfkd_bench.card import DatasetCard
from dfkd_bench.datasets.guard import check_open
from dfkd_bench.foreign import own_path

if TYPE_CHECKING:
    from dfkd_bench.datasets.split import Split
    from dfkd_bench.hooks.registry import Registry

__all__ = ["FOLDER", "Dataset", "open_dataset"]

FOLDER = "folder:"


@dataclass(frozen=True)
class Dataset:
    """A card, and the way to its images: `load("train")` and `load("test")`."""

    card: DatasetCard
    load: Callable[[str], Split]


def open_dataset(name: str, registry: Registry, data_root: Path | None = None) -> Dataset:
    """A registered dataset, or a folder of one's own as `folder:PATH`. Reads no image of a registered dataset.

    Raises:
        DfkdError: the name is unknown, or the folder is no dataset.
    """
    if name.startswith(FOLDER):
        from dfkd_bench.datasets.folder import open_folder

        card, load_folder = open_folder(own_path(name.removeprefix(FOLDER)))
        return Dataset(card, lambda split: load_folder(split, data_root))
    found = registry.find("dataset", name)
    assert found.card is not None

    def load(split: str) -> Split:
        # Here as well as in our own loaders: a stranger's need not think of it.
        check_open()
        loaded: Split = registry.load("dataset", name)(split, data_root)
        return loaded

    return Dataset(found.card, load)
