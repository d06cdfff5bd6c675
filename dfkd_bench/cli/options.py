"""Options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from dfkd_bench.errors import DfkdError

# More processes than any machine has room for.
_MOST_JOBS = 1024

__all__ = [
    "Address",
    "CheckpointSeconds",
    "Compile",
    "CpusPerRun",
    "DataRoot",
    "Dataset",
    "Deterministic",
    "Device",
    "DeviceChoice",
    "Engine",
    "EngineChoice",
    "GpusPerRun",
    "Graphs",
    "Jobs",
    "Precision",
    "PrecisionChoice",
    "ProtocolChoice",
    "Rerun",
    "RerunChoice",
    "ResultsDir",
    "Retry",
    "RetryChoice",
    "TeachersDir",
    "examples",
    "folder",
]


def examples(*commands: str) -> str:
    """The end of a command's `--help`; each command is a paragraph, so that no line is joined to another."""
    return "\n\n".join(("Examples:", *commands))


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


class EngineChoice(StrEnum):
    """Where runs are executed."""

    local = "local"
    ray = "ray"
    inline = "inline"


class RetryChoice(StrEnum):
    """What is run again."""

    failed = "failed"


class RerunChoice(StrEnum):
    """What is run again though it finished."""

    stale = "stale"


def folder(text: str | Path) -> Path:
    """A folder's path. An empty one, as of a variable that is not set, is not the current folder.

    Raises:
        DfkdError: it is empty.
    """
    if not str(text).strip():
        raise DfkdError("a folder's name is empty: write . for the current folder, or leave the option out")
    return Path(text)


Dataset = Annotated[str, typer.Option(help="A dataset of `dfkd-bench datasets`, or folder:PATH.")]
Device = Annotated[DeviceChoice, typer.Option(help="Where to compute; auto takes a GPU if there is one.")]
Precision = Annotated[
    PrecisionChoice, typer.Option(help="auto takes bf16 where the processor computes with it. Losses stay float32.")
]
Deterministic = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="On a GPU, ask for deterministic kernels where there are some; slower, and some results still vary.",
    ),
]
Compile = Annotated[
    bool,
    typer.Option(
        "--compile",
        help="Run teacher and student through torch.compile where nobody looks into a pass; takes minutes to begin.",
    ),
]
Graphs = Annotated[
    bool,
    typer.Option(
        "--graphs",
        help="On a GPU, replay steps as CUDA graphs. Not yet tried on one: compare its results with those without.",
    ),
]
DataRoot = Annotated[
    Path | None,
    typer.Option(
        parser=folder,
        metavar="PATH",
        help="Folder with <dataset>/*.parquet; without it the files are downloaded from the Hugging Face Hub.",
    ),
]
TeachersDir = Annotated[
    Path | None, typer.Option(parser=folder, metavar="PATH", help="Folder of teachers; by default in the user's cache.")
]
ResultsDir = Annotated[
    Path, typer.Option(parser=folder, metavar="PATH", help="Folder with the records and the leaderboard.")
]
Engine = Annotated[
    EngineChoice,
    typer.Option(
        envvar="DFKD_BENCH_ENGINE",
        help="local: a process per run on this machine. ray: on a cluster. inline: in this process, for a debugger.",
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(min=1, max=_MOST_JOBS, help="Runs at once (local); by default one per GPU, or one on the CPU."),
]
Address = Annotated[str | None, typer.Option(help="The Ray cluster's address, such as auto or HOST:6379.")]
GpusPerRun = Annotated[
    float | None,
    typer.Option(min=0, help="A run's share of GPUs (ray), such as 0.5; by default 1 if the cluster has any."),
]
CpusPerRun = Annotated[float, typer.Option(min=0, help="Processors for each run (ray).")]
CheckpointSeconds = Annotated[
    float, typer.Option(min=0, help="Shortest time between two checkpoints of a run; 0: after every segment.")
]
Retry = Annotated[
    RetryChoice | None,
    typer.Option(help="failed: run again what failed, diverged, ran out of memory or was killed."),
]
Rerun = Annotated[
    RerunChoice | None,
    typer.Option(help="stale: run again what other code of its plugins made than is installed now."),
]
