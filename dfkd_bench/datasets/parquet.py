"""Parquet files of labeled, encoded images: reading and decoding, with errors that name file and row."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from dfkd_bench.errors import DfkdError
from dfkd_bench.foreign import check_regular

__all__ = [
    "GRAY_MODES",
    "check_labels",
    "decode_into",
    "open_parquet",
    "read_images",
    "read_labels",
]

GRAY_MODES = frozenset({"1", "L", "LA"})
"""PIL's modes of 8-bit images without color."""

_CHUNK = 256  # images that a thread decodes at a time


def open_parquet(file: Path) -> pq.ParquetFile:
    """Open a parquet file.

    Raises:
        DfkdError: it is no parquet file, or cannot be read.
    """
    try:
        check_regular(file)
        return pq.ParquetFile(file)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def read_labels(file: Path, column: str) -> NDArray[np.int64]:
    """The labels of a parquet file, int64 [N].

    Raises:
        DfkdError: the file is damaged, has no such column of integers, or a label is missing.
    """
    labels = _column(file, column, pa.types.is_integer, "integers")
    if labels.null_count:
        raise DfkdError(f"{file} row {_first(labels.is_null())} has no label: repair the file or fetch it again")
    read = np.asarray(labels.to_numpy())
    if read.dtype == np.uint64 and int(read.max(initial=0)) > np.iinfo(np.int64).max:
        raise DfkdError(f"{file} row {int(read.argmax())} has the label {read.max()}: put the right file there")
    return read.astype(np.int64)


def read_images(file: Path, column: str) -> list[bytes]:
    """The encoded images of a parquet file, from a column of structs with a field `bytes`.

    Raises:
        DfkdError: the file is damaged, has no such column, or an image is missing.
    """
    images = _column(file, column, _holds_bytes, "structs with the encoded image in the field 'bytes'")
    encoded: list[bytes | None] = pc.struct_field(images, "bytes").to_pylist()
    for row, image in enumerate(encoded):
        if image is None:
            raise DfkdError(f"{file} row {row} has no image bytes: repair the file or fetch it again")
    return [image for image in encoded if image is not None]


def _first(mask: pa.ChunkedArray) -> int:
    return int(np.flatnonzero(mask.to_numpy())[0])


def _holds_bytes(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind) or kind.get_field_index("bytes") < 0:
        return False
    field = kind.field("bytes").type
    return bool(pa.types.is_binary(field) or pa.types.is_large_binary(field))


def _column(file: Path, column: str, fits: Callable[[pa.DataType], bool], wanted: str) -> pa.ChunkedArray:
    parquet = open_parquet(file)
    schema = parquet.schema_arrow
    if schema.get_field_index(column) < 0 or not fits(schema.field(column).type):
        has = ", ".join(f"{field.name} ({field.type})" for field in schema)
        raise DfkdError(f"{file} has no column '{column}' of {wanted}, it has {has}: put the right file there")
    try:
        return parquet.read(columns=[column]).column(column)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(file, error) from error


def _damaged(file: Path, error: Exception) -> DfkdError:
    reason = " ".join(str(error).split()).rstrip(".")
    return DfkdError(f"{file} cannot be read as parquet ({reason}): fetch it again")


def check_labels(labels: NDArray[np.int64], num_classes: int, place: Callable[[int], str]) -> None:
    """Refuse labels (int64 [N]) outside 0..num_classes-1; `place(i)` names the i-th image for the error.

    Raises:
        DfkdError: there is one.
    """
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise DfkdError(
            f"{place(wrong[0])} has the label {labels[wrong[0]]}, outside 0..{num_classes - 1}: "
            "fix the labels, or put the right file there"
        )


def decode_into(out: NDArray[np.uint8], encoded: Sequence[bytes], place: Callable[[int], str], expected: str) -> None:
    """Decode encoded images into `out`, uint8 [N, C, H, W]; gray images become color ones where C is 3.

    Args:
        out: where the pixels go.
        encoded: N image files' contents.
        place: names the i-th image for an error.
        expected: says for an error what the size should be, such as "a.png is 8x8".

    Raises:
        DfkdError: an image cannot be decoded, has another size, or is in color where C is 1.
    """

    def fill(start: int) -> None:
        for index in range(start, min(start + _CHUNK, len(encoded))):
            out[index] = _decode_image(encoded[index], out.shape[1:], place(index), expected)

    # PIL's decoders let other threads run.
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(0, len(encoded), _CHUNK)):
            pass


def _decode_image(encoded: bytes, shape: tuple[Any, ...], place: str, expected: str) -> NDArray[np.uint8]:
    channels, height, width = shape
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            mode, size = image.mode, image.size
            pixels = np.asarray(image.convert("RGB" if channels == 3 else "L"), dtype=np.uint8)
    # PIL's decoders raise many kinds of exceptions over damaged data.
    except Exception as error:
        raise DfkdError(f"{place} cannot be decoded as an image ({error}): repair or replace it") from error
    if size != (width, height):
        raise DfkdError(f"{place} is {size[0]}x{size[1]} but {expected}: all images must have one size")
    if mode.startswith(("I", "F")):
        raise DfkdError(f"{place} has more than 8 bits a channel (mode {mode}): convert it to 8 bits")
    if channels == 1 and mode not in GRAY_MODES:
        raise DfkdError(
            f"{place} is in color (mode {mode}) in a dataset of gray images: make all images gray, "
            "or all of them color by three values of mean in card.json"
        )
    return pixels.reshape(height, width, channels).transpose(2, 0, 1)
