"""A dataset of one's own: `folder:PATH`.

PATH holds a training split `train` and a test split `test` (or `valid`, `val`, `validation`), as folders with one
sub-folder of images for each class, or as parquet files `train-*.parquet` and `test-*.parquet` in PATH or PATH/data.
The training split may be absent: a data-free run needs the test split and a teacher. `card.json` in PATH may hold any
of class_names, mean, std and transform.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dfkd_bench.card import DatasetCard, TrainTransform
from dfkd_bench.datasets.guard import check_open
from dfkd_bench.datasets.parquet import (
    GRAY_MODES,
    check_labels,
    decode_into,
    open_parquet,
    read_images,
    read_labels,
)
from dfkd_bench.datasets.shards import missing_shards
from dfkd_bench.datasets.split import Split, check_split_name
from dfkd_bench.errors import DfkdError, unknown_name
from dfkd_bench.files import listed
from dfkd_bench.foreign import Number, own_path, parse_json, read_bytes, read_model

__all__ = ["open_folder"]

_NAMES = {"train": ("train",), "test": ("test", "valid", "val", "validation")}
_MOST_BYTES = 256 * 2**20  # of one image
_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp"})
_MOST_CLASSES = 100_000  # more numbers than that are something else than labels
_LAYOUT = (
    "give it a sub-folder 'test' (and 'train') with one folder of images for each class, "
    "or parquet files test-*.parquet (and train-*.parquet)"
)


class _Overrides(BaseModel):
    """What `card.json` may say."""

    model_config = ConfigDict(extra="forbid")

    class_names: tuple[str, ...] | None = None
    mean: tuple[Number, ...] | None = None
    std: tuple[Annotated[Number, Field(gt=0)], ...] | None = None
    transform: TrainTransform | None = None


@dataclass(frozen=True)
class _Encoded:
    """Images as they are stored: their bytes, int64 labels [N], and what to call the i-th in an error."""

    images: Sequence[bytes]
    labels: NDArray[np.int64]
    place: Callable[[int], str]


class _Source(Protocol):
    """One split as it lies on the disk."""

    def class_names(self) -> tuple[str, ...]:
        """The names of the classes; those of parquet files without names are numbers."""

    def first(self) -> tuple[str, bytes]:
        """What to call the first image, and its bytes."""

    def read(self, classes: tuple[str, ...]) -> Iterator[_Encoded]:
        """Everything, part by part, with labels counted along `classes`."""


def open_folder(path: Path) -> tuple[DatasetCard, Callable[[str, Path | None], Split]]:
    """The card of a dataset of one's own, and its loader: `load(split, data_root)`, where `data_root` plays no part.

    Reads names, the first image and, of parquet files without names, the labels.

    Raises:
        DataFreeViolationError: a method is at work.
        DfkdError: the folder has no test split, or something in it cannot be used.
    """
    check_open()
    root = own_path(str(path)).resolve()
    sources = {split: _find(root, split) for split in _NAMES}
    model = sources["train"] or sources["test"]
    if sources["test"] is None or model is None:
        raise DfkdError(f"there is no test split in {root}: {_LAYOUT}")
    classes = model.class_names()
    if len(classes) < 2:
        raise DfkdError(f"{root} has {len(classes)} class: a dataset needs two classes or more")
    place, encoded = model.first()
    card = _card(root, classes, _shape(place, encoded))
    return card, _Folder(root, sources, classes, card, place).load


@dataclass(frozen=True)
class _Folder:
    """An opened folder; `classes` are the labels' names on the disk, `first` the image whose size all must have."""

    root: Path
    sources: dict[str, _Source | None]
    classes: tuple[str, ...]
    card: DatasetCard
    first: str

    def load(self, split: str, data_root: Path | None = None) -> Split:
        check_open()
        check_split_name(split)
        source = self.sources[split]
        if source is None:
            raise DfkdError(
                f"there is no training split in {self.root}: add it, or use a teacher that is trained already"
            )
        _, height, width = self.card.image_shape
        images, labels = [], []
        for part in source.read(self.classes):
            check_labels(part.labels, self.card.num_classes, part.place)
            pixels = np.empty((len(part.labels), *self.card.image_shape), dtype=np.uint8)
            decode_into(pixels, part.images, part.place, f"{self.first} is {width}x{height}")
            images.append(pixels)
            labels.append(part.labels)
        return Split.of(torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels)))


def _find(root: Path, split: str) -> _Source | None:
    if not root.is_dir():
        raise DfkdError(f"there is no folder {root}: give folder:PATH of a dataset of your own")
    for name in _NAMES[split]:
        if (root / name).is_dir():
            return _ImageFolder(root / name)
        for place in (root, root / "data"):
            if files := tuple(sorted(place.glob(f"{name}-*.parquet"))):
                return _Parquet(files)
    return None


# --- the card -------------------------------------------------------------------------------------------------------


def _shape(place: str, encoded: bytes) -> tuple[int, int, int]:
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return 1 if image.mode in GRAY_MODES else 3, image.height, image.width
    except (OSError, Image.DecompressionBombError) as error:
        raise DfkdError(f"{place} cannot be decoded as an image ({error}): repair or replace it") from error


def _card(root: Path, classes: tuple[str, ...], shape: tuple[int, int, int]) -> DatasetCard:
    overrides = _overrides(root / "card.json")
    # Some datasets of color images begin with a gray one: three means say that all are to be color.
    given = overrides.mean or overrides.std
    channels = len(given) if given is not None and len(given) in (1, 3) else shape[0]
    half = (0.5,) * channels
    try:
        return DatasetCard(
            name=f"folder:{root}",
            summary=f"your own images in {root}: {len(classes)} classes",
            num_classes=len(classes),
            class_names=overrides.class_names or classes,
            image_shape=(channels, *shape[1:]),
            mean=overrides.mean or half,
            std=overrides.std or half,
            transform=overrides.transform or TrainTransform(padding=shape[1] // 8, flip=True),
        )
    except ValidationError as error:
        raise DfkdError(f"{root / 'card.json'} does not fit the images ({_sentence(error)}): fix it") from error


def _overrides(file: Path) -> _Overrides:
    try:
        return read_model(_Overrides, file, "card", f"it may hold {', '.join(_Overrides.model_fields)}")
    except FileNotFoundError:
        return _Overrides()


def _sentence(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    return f"{where}: {message}" if where else message


# --- a folder of images for each class ------------------------------------------------------------------------------


@dataclass(frozen=True)
class _ImageFolder:
    folder: Path

    def class_names(self) -> tuple[str, ...]:
        names = tuple(entry.name for entry in listed(self.folder) if entry.is_dir() and not entry.name.startswith("."))
        if not names:
            raise DfkdError(f"{self.folder} is empty: put one folder of images for each class there")
        return names

    def first(self) -> tuple[str, bytes]:
        file = self._files(self.class_names()[0])[0]
        return str(file), _bytes(file)

    def read(self, classes: tuple[str, ...]) -> Iterator[_Encoded]:
        for name in self.class_names():
            if name not in classes:
                raise _unknown_class(self.folder / name, name, classes)
            files = self._files(name)
            labels = np.full(len(files), classes.index(name), dtype=np.int64)
            yield _Encoded([_bytes(file) for file in files], labels, partial(_file_name, files))

    def _files(self, name: str) -> list[Path]:
        files = [file for file in listed(self.folder / name) if file.suffix.lower() in _SUFFIXES and file.is_file()]
        if not files:
            kinds = ", ".join(sorted(suffix.removeprefix(".") for suffix in _SUFFIXES))
            raise DfkdError(f"{self.folder / name} holds no image ({kinds}): put the class's images there")
        return files


def _file_name(files: Sequence[Path], index: int) -> str:
    return str(files[index])


def _bytes(file: Path) -> bytes:
    try:
        return read_bytes(file, _MOST_BYTES)
    except FileNotFoundError as error:
        raise DfkdError(f"{file} is gone: put it back") from error


def _unknown_class(where: Path, name: str, classes: tuple[str, ...]) -> DfkdError:
    return DfkdError(f"{where} is not a class of the training split: {unknown_name('class', name, classes)}")


# --- parquet files --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Parquet:
    files: tuple[Path, ...]

    def class_names(self) -> tuple[str, ...]:
        self._check()
        stored = self._stored_names()
        if stored is not None:
            return stored
        highest = -1
        for file in self.files:
            labels = read_labels(file, self._label(file))
            check_labels(labels, _MOST_CLASSES, partial(_row, file))
            highest = max(highest, int(labels.max(initial=-1)))
        return tuple(str(label) for label in range(highest + 1))

    def first(self) -> tuple[str, bytes]:
        self._check()
        file = next(file for file in self.files if open_parquet(file).metadata.num_rows)
        return _row(file, 0), read_images(file, self._image(file))[0]

    def read(self, classes: tuple[str, ...]) -> Iterator[_Encoded]:
        self._check()
        stored = self._stored_names()
        if stored is not None and stored != classes:
            raise DfkdError(
                f"{self.files[0]} names its classes {_brief(stored)} but the training split has {_brief(classes)}: "
                "give both splits the same classes in the same order"
            )
        for file in self.files:
            images, labels = read_images(file, self._image(file)), read_labels(file, self._label(file))
            yield _Encoded(images, labels, partial(_row, file))

    def _check(self) -> None:
        if missing := missing_shards(self.files):
            raise DfkdError(f"{missing[0]} is missing from {self.files[0].parent}: put it there")
        if not any(open_parquet(file).metadata.num_rows for file in self.files):
            raise DfkdError(f"{self.files[0]} holds no image: put the split's images there")

    def _stored_names(self) -> tuple[str, ...] | None:
        """The names that the hub's library leaves in a file's metadata."""
        file = self.files[0]
        stored = (open_parquet(file).schema_arrow.metadata or {}).get(b"huggingface")
        if stored is None:
            return None
        where = f"the 'huggingface' metadata of {file}"
        try:
            names = parse_json(stored, where)["info"]["features"][self._label(file)]["names"]
        except KeyError:
            return None  # the column is one of plain integers
        except TypeError as error:
            raise DfkdError(f"{where} cannot be read ({error}): write it again") from error
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise DfkdError(f"{where} does not list the classes' names as texts: write it again")
        return tuple(names)

    def _image(self, file: Path) -> str:
        return _present(file, ("image", "img"))

    def _label(self, file: Path) -> str:
        return _present(file, ("label", "labels"))


def _present(file: Path, columns: tuple[str, str]) -> str:
    there = open_parquet(file).schema_arrow.names
    found = [column for column in columns if column in there]
    if not found:
        raise DfkdError(f"{file} has the columns {', '.join(there)}: one must be called {' or '.join(columns)}")
    return found[0]


def _row(file: Path, row: int) -> str:
    return f"{file} row {row}"


def _brief(names: tuple[str, ...]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
