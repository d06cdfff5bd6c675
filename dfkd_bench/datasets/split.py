"""The images and labels of one split, and their keeping in a cache file."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from dfkd_bench.errors import DfkdError
from dfkd_bench.files import replacing
from dfkd_bench.foreign import parse_json, read_tensors

__all__ = ["Split", "check_split_name", "keep", "recall"]


@dataclass(frozen=True, eq=False)
class Split:
    """Labeled images.

    Attributes:
        images: uint8 [N, C, H, W].
        labels: int64 [N].
        fingerprint: SHA-256, in hex, of the shape, the image bytes and the labels.
        note: what a reader of results ought to know, such as "25,000 of 100,000 training images".
        file: the cache file that holds it, checked; None if there is none.
    """

    images: Tensor
    labels: Tensor
    fingerprint: str
    note: str | None = None
    file: Path | None = None

    def __len__(self) -> int:
        return len(self.labels)

    @classmethod
    def of(cls, images: Tensor, labels: Tensor) -> Split:
        """The split of these images (uint8 [N, C, H, W], on the CPU) and labels (int64 [N]), with its fingerprint.

        Raises:
            ValueError: the tensors are not of these types and shapes.
        """
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise ValueError(f"images must be uint8 [N, C, H, W], not {images.dtype} {list(images.shape)}")
        if labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise ValueError(f"labels must be int64 [{len(images)}], not {labels.dtype} {list(labels.shape)}")
        digest = hashlib.sha256(str(tuple(images.shape)).encode())
        digest.update(images.contiguous().numpy().data)
        digest.update(labels.contiguous().numpy().astype("<i8", copy=False).data)
        return cls(images, labels, digest.hexdigest())


def check_split_name(split: str) -> None:
    """Refuse all but `train` and `test`.

    Raises:
        ValueError: it is another name.
    """
    if split not in ("train", "test"):
        raise ValueError(f"unknown split '{split}': train or test")


def keep(split: Split, path: Path) -> Split:
    """Write a split into a cache file, whole or not at all, and give it back with its file if there is one now.

    An unwritable cache is no error.
    """
    # It costs time at the next load and changes no result: the images are then decoded from the same files again, and
    # the fingerprint that a record holds is that of the images themselves.
    with suppress(OSError, DfkdError, SafetensorError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            tensors = {"images": split.images.contiguous(), "labels": split.labels.contiguous()}
            said = json.dumps({"fingerprint": split.fingerprint, "note": split.note})
            save_file(tensors, temporary, metadata={"split": said})  # one key: their order in the file is not ours
        return replace(split, file=path)
    return split


def recall(path: Path) -> Split | None:
    """The split in a cache file, or None if there is none or it is damaged: a damaged file is deleted."""
    try:
        tensors, texts = read_tensors(path, ["images", "labels"])
        found = Split.of(tensors["images"], tensors["labels"])
        said = parse_json(texts["split"], str(path))
        if said["fingerprint"] == found.fingerprint:
            return replace(found, note=said["note"], file=path)
    except FileNotFoundError:
        return None
    except (DfkdError, KeyError, TypeError, ValueError):
        pass  # damaged in one way or another, as is a file whose images do not have its fingerprint
    # If it cannot be deleted either, the next load decodes again: slower, with the same images.
    with suppress(OSError):
        path.unlink()
    return None
