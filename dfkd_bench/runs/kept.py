"""The final images and the student's weights, where a user asked to keep them beside the record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from dfkd_bench.errors import DfkdError
from dfkd_bench.files import replacing
from dfkd_bench.results.scan import BANK_FILE, STUDENT_FILE
from dfkd_bench.stages.bank import ImageBank

__all__ = ["KeptBank", "keep", "read_bank"]


@dataclass(frozen=True)
class KeptBank:
    """A run's final images, on the CPU.

    Attributes:
        images: uint8 [N, C, H, W].
        targets: int64 [N], the classes that they were made for.
        augmented: bool [N], true for images that an augmenter made of others.
        soft: float32 [N, K], the classes as probabilities, if some images have several; else None.
    """

    images: Tensor
    targets: Tensor
    augmented: Tensor
    soft: Tensor | None


def keep(folder: Path, bank: ImageBank, student: nn.Module) -> None:
    """Write both files; the bank's not for a run that has none."""
    if len(bank):
        tensors = {"images": bank.images, "targets": bank.targets, "augmented": bank.augmented.to(torch.uint8)}
        if bank.soft is not None:
            tensors["soft"] = bank.soft
        _write(folder / BANK_FILE, tensors)
    _write(folder / STUDENT_FILE, student.state_dict())


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    with replacing(path) as temporary:
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)


def read_bank(folder: Path) -> KeptBank:
    """The images kept in a run's folder.

    Raises:
        DfkdError: none were kept, or the file is damaged.
    """
    path = folder / BANK_FILE
    if not path.is_file():
        raise DfkdError(
            f"{folder} keeps no images: run it with --keep-bank into an empty results folder (a method that makes "
            "fresh images for every step has none to keep)"
        )
    try:
        tensors = load_file(path)
        return KeptBank(tensors["images"], tensors["targets"], tensors["augmented"].bool(), tensors.get("soft"))
    except (SafetensorError, KeyError, OSError) as error:
        raise DfkdError(f"{path} is damaged ({error}): remove it and run again with --keep-bank") from error
