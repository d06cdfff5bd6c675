"""`dfkd-bench grid emit`: a grid file as one command per run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from dfkd_bench.cli.console import end_with, raw
from dfkd_bench.cli.options import (
    DataRoot,
    Device,
    DeviceChoice,
    Precision,
    PrecisionChoice,
    ResultsDir,
    TeachersDir,
    examples,
)
from dfkd_bench.errors import DfkdError

EXAMPLES = examples(
    "dfkd-bench grid emit docs/grid-example.toml", "dfkd-bench grid emit docs/grid-example.toml | parallel -j 4"
)

app = typer.Typer(help="Grid files: many runs in one TOML file.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Keep `emit` a command of its own beside those to come."""


@app.command()
def emit(
    file: Annotated[Path, typer.Argument(help="The grid file (TOML).")],
    results: ResultsDir = Path("results"),
    data_root: DataRoot = None,
    teachers: TeachersDir = None,
    device: Device = DeviceChoice.auto,
    precision: Precision = PrecisionChoice.auto,
) -> None:
    """Print one shell command for each run that has no record yet, for a Slurm array or GNU parallel.

    Device and precision are chosen where the command runs; they are written out only if they are given here.
    """
    from dfkd_bench import api
    from dfkd_bench.workbench import Workbench

    # Nothing is computed here, and the machine that runs the commands may have what this one lacks.
    bench = Workbench.make(results=results, teachers=teachers, data_root=data_root, device="cpu", precision="fp32")
    places = [("--results", results), ("--data-root", data_root), ("--teachers", teachers)]
    where = [part for name, path in places if path is not None for part in (name, str(path.absolute()))]
    if device is not DeviceChoice.auto:
        where += ["--device", device.value]
    if precision is not PrecisionChoice.auto:
        where += ["--precision", precision.value]
    odd: list[DfkdError] = []
    for run in api.plan_grid(bench, file, keep_teacher=False):
        try:
            record = bench.results.read(run.spec.hash)
        except DfkdError as error:
            odd.append(error)
            continue
        if record is None:
            command = ["dfkd-bench", "run", "--grid", str(file.absolute()), "--only", run.spec.hash, *where]
            raw(shlex.join(command))
    end_with(odd)
