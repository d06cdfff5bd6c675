"""Parquet datasets in the layout of the Hugging Face hub: from a local folder, or fetched at a pinned revision.

A split is decoded once and kept in the user's cache folder, under a hash of the files that it came from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from dfkd_bench.card import DatasetCard
from dfkd_bench.datasets import cards
from dfkd_bench.datasets.guard import check_open
from dfkd_bench.datasets.shards import SHARD, missing_shards
from dfkd_bench.datasets.split import Split, check_split_name, keep, recall
from dfkd_bench.errors import DfkdError, nearest
from dfkd_bench.files import cache_folder, listed

__all__ = [
    "SPECS",
    "HubSpec",
    "load_cifar10",
    "load_cifar100",
    "load_tiny_imagenet",
]


@dataclass(frozen=True)
class HubSpec:
    """Where a dataset lies on the hub, and what it must hold.

    Attributes:
        card: the dataset's card.
        repo: the hub's dataset id.
        revision: the commit that is fetched.
        image: column of the encoded images.
        label: column of the labels.
        prefixes: for each of our splits, what its files' names start with.
        counts: for each of our splits, the number of images.
    """

    card: DatasetCard
    repo: str
    revision: str
    image: str
    label: str
    prefixes: Mapping[str, str]
    counts: Mapping[str, int]


_CIFAR_SPLITS = {"train": "train", "test": "test"}
_CIFAR_COUNTS = {"train": 50_000, "test": 10_000}

SPECS: dict[str, HubSpec] = {
    "cifar10": HubSpec(
        card=cards.CIFAR10,
        repo="uoft-cs/cifar10",
        revision="0b2714987fa478483af9968de7c934580d0bb9a2",
        image="img",
        label="label",
        prefixes=_CIFAR_SPLITS,
        counts=_CIFAR_COUNTS,
    ),
    "cifar100": HubSpec(
        card=cards.CIFAR100,
        repo="uoft-cs/cifar100",
        revision="aadb3af77e9048adbea6b47c21a81e47dd092ae5",
        image="img",
        label="fine_label",
        prefixes=_CIFAR_SPLITS,
        counts=_CIFAR_COUNTS,
    ),
    # The images of Tiny-ImageNet's own test split have no public labels: as everywhere, `valid` is the test split.
    "tiny_imagenet": HubSpec(
        card=cards.TINY_IMAGENET,
        repo="zh-plus/tiny-imagenet",
        revision="5a77092c28e51558c5586e9c5eb71a7e17a5e43f",
        image="image",
        label="label",
        prefixes={"train": "train", "test": "valid"},
        counts={"train": 100_000, "test": 10_000},
    ),
}


def load_cifar10(split: str, data_root: Path | None = None) -> Split:
    """CIFAR-10's `train` or `test` split, uint8 [N, 3, 32, 32], from `data_root/cifar10` or the hub.

    Raises:
        DataFreeViolationError: a method is at work.
        DfkdError: the files are missing, damaged or not this dataset's, or cannot be fetched.
        ValueError: the split is unknown.
    """
    return _load("cifar10", split, data_root)


def load_cifar100(split: str, data_root: Path | None = None) -> Split:
    """CIFAR-100's `train` or `test` split, uint8 [N, 3, 32, 32], with fine labels; else as `load_cifar10`."""
    return _load("cifar100", split, data_root)


def load_tiny_imagenet(split: str, data_root: Path | None = None) -> Split:
    """Tiny-ImageNet's `train` or `test` split (the hub's `valid`), uint8 [N, 3, 64, 64]; else as `load_cifar10`."""
    return _load("tiny_imagenet", split, data_root)


def _load(name: str, split: str, data_root: Path | None) -> Split:
    check_open()
    check_split_name(split)
    spec = SPECS[name]
    folder = _fetch(spec, split) if data_root is None else _local_folder(spec, data_root)
    files = _shards(spec, split, folder)
    missing = missing_shards(files)
    # Only a training split that the user put there may be a part of itself, and its note says so.
    if missing and (split == "test" or data_root is None):
        raise DfkdError(f"{missing[0]} is missing from {files[0].parent}: {_advice(spec)}")
    kept = cache_folder("datasets") / f"{name}-{split}-{_content_hash(files)}.safetensors"
    found = recall(kept)
    if found is None:
        note = _check_count(spec, split, files, complete=not missing)
        found = keep(replace(_decode(spec, files), note=note), kept)
    return found


def _advice(spec: HubSpec) -> str:
    wanted = " and ".join(f"{prefix}-*-of-*.parquet" for prefix in spec.prefixes.values())
    return f"put {wanted} of the hub's dataset {spec.repo} into DIR/{spec.card.name} and give --data-root DIR"


# --- which files ---------------------------------------------------------------------------------------------------


def _local_folder(spec: HubSpec, data_root: Path) -> Path:
    folder = data_root / spec.card.name
    if folder.is_dir():
        return folder
    there = [entry.name for entry in listed(data_root) if entry.is_dir()] if data_root.is_dir() else []
    near = nearest(spec.card.name, there)
    like = f" (there is {', '.join(near)})" if near else ""
    raise DfkdError(f"there is no folder {folder}{like}: {_advice(spec)}")


def _fetch(spec: HubSpec, split: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                spec.repo,
                repo_type="dataset",
                revision=spec.revision,
                allow_patterns=[f"*/{spec.prefixes[split]}-*.parquet"],
            )
        )
    # What the network can raise depends on huggingface_hub's version and the HTTP library below it.
    except Exception as error:
        reason = " ".join(str(error).split()).rstrip(".")
        raise DfkdError(
            f"the {split} images of {spec.card.name} could not be fetched from the Hugging Face hub "
            f"({type(error).__name__}: {reason}): without a network, {_advice(spec)}"
        ) from error


def _shards(spec: HubSpec, split: str, folder: Path) -> list[Path]:
    prefix = spec.prefixes[split]
    places = [folder, *(entry for entry in listed(folder) if entry.is_dir())]
    found = {place: files for place in places if (files := _matching(place, prefix))}
    if not found:
        raise DfkdError(f"{folder} and its sub-folders hold no {prefix}-*-of-*.parquet: {_advice(spec)}")
    if len(found) > 1:
        both = " and in ".join(str(place) for place in found)
        raise DfkdError(f"there are {prefix}-*.parquet files in {both}: keep those of one folder")
    return next(iter(found.values()))


def _matching(place: Path, prefix: str) -> list[Path]:
    named = ((file, SHARD.fullmatch(file.name)) for file in listed(place) if file.is_file())
    return [file for file, match in named if match and match["prefix"] == prefix]


def _check_count(spec: HubSpec, split: str, files: Sequence[Path], *, complete: bool) -> str | None:
    """None for a whole split, else the note that says how much of it is there."""
    from dfkd_bench.datasets.parquet import open_parquet

    count = sum(open_parquet(file).metadata.num_rows for file in files)
    expected = spec.counts[split]
    if count == expected:
        return None
    if complete or not 0 < count < expected:
        raise DfkdError(
            f"the {split} files in {files[0].parent} hold {count:,} images where {spec.card.name} has {expected:,}: "
            f"fetch them again from the hub's dataset {spec.repo}"
        )
    return f"{count:,} of {expected:,} training images"


def _content_hash(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()[:16]


def _decode(spec: HubSpec, files: Sequence[Path]) -> Split:
    # Takes a third of a second to import, and is not needed where the split is kept already.
    from dfkd_bench.datasets.parquet import check_labels, decode_into, read_images, read_labels

    channels, height, width = spec.card.image_shape
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    for file in files:

        def place(row: int, file: Path = file) -> str:
            return f"{file} row {row}"

        labels.append(read_labels(file, spec.label))
        check_labels(labels[-1], spec.card.num_classes, place)
        images.append(np.empty((len(labels[-1]), channels, height, width), dtype=np.uint8))
        decode_into(images[-1], read_images(file, spec.image), place, f"{spec.card.name}'s images are {width}x{height}")
    return Split.of(torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)))
