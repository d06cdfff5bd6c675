"""A split on the disk, of which nothing is in memory but while somebody looks at it."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from dfkd_bench.datasets.guard import check_open
from dfkd_bench.datasets.split import Split, keep, recall
from dfkd_bench.errors import DfkdError
from dfkd_bench.files import cache_folder

__all__ = ["StoredSplit"]


@dataclass(frozen=True)
class _Stamp:
    """What tells that a file is the one that was checked."""

    size: int
    changed: int
    inode: int

    @classmethod
    def of(cls, file: IO[bytes]) -> _Stamp:
        found = os.fstat(file.fileno())
        return cls(found.st_size, found.st_mtime_ns, found.st_ino)


class StoredSplit:
    """The decoded bytes of a split in a file, mapped into memory on demand.

    The file is the one that the split was kept in, or else is beside those in the user's cache, named by the split's
    hash, and serves every run. Where the cache cannot be written it is a nameless temporary file of this process.

    Args:
        split: what is stored; it can be forgotten afterwards.

    Raises:
        DfkdError: neither the cache nor the folder for temporary files can be written.
    """

    def __init__(self, split: Split) -> None:
        self.fingerprint, self.count = split.fingerprint, len(split)
        self.path = split.file or cache_folder("datasets") / f"split-{split.fingerprint}.safetensors"
        self._nameless: IO[bytes] | None = None
        if split.file is None and recall(self.path) is None:
            keep(split, self.path)
        try:
            with self.path.open("rb") as file:
                self._stamp = _Stamp.of(file)
        except OSError:
            self._nameless = _nameless(split)
            self._stamp = _Stamp.of(self._nameless)

    def __len__(self) -> int:
        return self.count

    @contextmanager
    def opened(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, uint8 [N, C, H, W], and labels, int64 [N]; they must not be kept beyond the block.

        Raises:
            DataFreeViolationError: a method is at work.
            DfkdError: the file is gone, or is not the one that was checked.
        """
        check_open()
        try:
            file = self._nameless or self.path.open("rb")
        except OSError as error:
            raise DfkdError(
                f"cannot read {self.path}, where the test split was kept ({error.strerror}): start the command again"
            ) from error
        try:
            if _Stamp.of(file) != self._stamp and not self._written_again(file):
                raise DfkdError(f"{self.path} was changed during the run: start the command again")
            tensors = _mapped(file)
        finally:
            if file is not self._nameless:
                file.close()
        yield tensors["images"], tensors["labels"]

    def _written_again(self, file: IO[bytes]) -> bool:
        """Whether the file is a new one with the same split, which it then goes by from now on.

        Two processes that find no file each write one, and the later replaces the earlier.
        """
        stamp, found = _Stamp.of(file), recall(self.path)
        if found is None or found.fingerprint != self.fingerprint:
            return False
        with self.path.open("rb") as checked:
            if _Stamp.of(checked) != stamp:  # and again, while it was read
                return False
        self._stamp = stamp
        return True


def _nameless(split: Split) -> IO[bytes]:
    try:
        file: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - it is there as long as its split
        file.write(save({"images": split.images.contiguous(), "labels": split.labels.contiguous()}))
        file.flush()
    except OSError as error:
        raise DfkdError(
            f"the decoded test split fits neither into {cache_folder('datasets')} nor into {tempfile.gettempdir()} "
            f"({error.strerror}): set XDG_CACHE_HOME or TMPDIR to a folder with room"
        ) from error
    return file


def _mapped(file: IO[bytes]) -> dict[str, Tensor]:
    """The tensors of a safetensors file, whose pages the system reads when they are wanted."""
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    header: dict[str, Any] = json.loads(file.read(length))
    tensors = {}
    for name, kind in (("images", np.uint8), ("labels", np.int64)):
        start = 8 + length + header[name]["data_offsets"][0]
        # Copy on write: the file stays as it is, whatever is done to the pages.
        pages = np.memmap(file, dtype=kind, mode="c", offset=start, shape=tuple(header[name]["shape"]))
        tensors[name] = torch.from_numpy(pages)
    return tensors
