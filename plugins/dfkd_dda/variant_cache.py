"""Variants on the disk, batch by batch, so that what was diffused once is not diffused again."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor

from dfkd_bench import CostLedger, DfkdError, SyntheticBatch
from dfkd_bench.files import replacing, writable_folder
from dfkd_bench.foreign import read_tensors
from dfkd_bench.stages.ledger import PhaseCost

__all__ = ["VariantCache"]

#: To be raised when an augmenter makes something else of the same images and options.
_EDITION = 1


class VariantCache:
    """Keyed by source images and classes, seed, model, options, device, and the libraries' versions.

    What a batch cost is kept with it and booked again when it is found: a run's cost is that of its method, not of what
    somebody ran before, and a run that was killed ends in the same record.

    Args:
        folder: where it lies; made when it is first written.
        ledger: the run's.
        maker: all of the key that stays the same for a stage.
    """

    def __init__(self, folder: Path, ledger: CostLedger, maker: dict[str, Any]) -> None:
        self._folder, self._ledger = folder, ledger
        versions = {name: version(name) for name in ("torch", "diffusers", "transformers")}
        plain = {"edition": _EDITION, "hardware": _hardware(ledger.device), **versions, **maker}
        self._maker = json.dumps(plain, sort_keys=True).encode()

    def get(self, batch: SyntheticBatch, seed: int, make: Callable[[], Tensor]) -> Tensor:
        """The variants, uint8 on the ledger's device: found, or made now and kept."""
        path = self._path(batch, seed)
        found = _read(path)
        if found is None:
            with self._ledger.measured() as cost:
                images = make()
            self._write(path, images, cost)
            return images
        images, cost = found
        with contextlib.suppress(OSError):  # a cache that one may only read serves as well
            os.utime(path)  # `dfkd-bench cache --limit` deletes what was used longest ago
        self._ledger.repeat(cost)
        return images.to(self._ledger.device)

    def _path(self, batch: SyntheticBatch, seed: int) -> Path:
        digest = hashlib.sha256(self._maker + f"|{seed}|{tuple(batch.images.shape)}".encode())
        digest.update(batch.images.cpu().contiguous().numpy().tobytes() + batch.targets.cpu().numpy().tobytes())
        name = digest.hexdigest()[:32]
        return self._folder / name[:2] / f"{name}.safetensors"

    def _write(self, path: Path, images: Tensor, cost: PhaseCost) -> None:
        if not path.parent.is_dir():
            writable_folder(path.parent, "cache")
        with replacing(path, durable=False) as temporary:
            save_file({"images": images.cpu().contiguous()}, temporary, {"cost": cost.model_dump_json()})


def _read(path: Path) -> tuple[Tensor, PhaseCost] | None:
    try:
        tensors, texts = read_tensors(path, ["images"])
        return tensors["images"], PhaseCost.model_validate_json(texts["cost"])
    except (FileNotFoundError, DfkdError, KeyError, ValidationError):
        return None  # cut off by a power failure, or another's: it is made again


def _hardware(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
