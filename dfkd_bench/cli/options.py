"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "DataRoot",
    "Dataset",
    "Device",
    "DeviceChoice",
    "Precision",
    "PrecisionChoice",
    "ProtocolChoice",
    "ResultsDir",
    "TeachersDir",
]


class DeviceChoice(StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class PrecisionChoice(StrEnum):
    """What the networks compute in."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"


class ProtocolChoice(StrEnum):
    """Whose budget."""

    native = "native"
    matched = "matched"


Dataset = Annotated[str, typer.Option(help="A dataset of `dfkd-bench datasets`, or folder:PATH.")]
Device = Annotated[DeviceChoice, typer.Option(help="Where to compute; auto takes a GPU if there is one.")]
Precision = Annotated[
    PrecisionChoice, typer.Option(help="auto takes bf16 where the processor computes with it. Losses stay float32.")
]
DataRoot = Annotated[
    Path | None, typer.Option(help="Folder with <dataset>/*.parquet; without it the hub's files are fetched.")
]
TeachersDir = Annotated[Path | None, typer.Option(help="Folder of teachers; by default in the user's cache.")]
ResultsDir = Annotated[Path, typer.Option(help="Folder of records and the leaderboard.")]
