"""`dfkd-bench run`: methods x pairs x seeds, then one comparison table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfkd_bench.cli.options import (
    Address,
    CheckpointSeconds,
    CpusPerRun,
    DataRoot,
    Dataset,
    Device,
    DeviceChoice,
    Engine,
    EngineChoice,
    GpusPerRun,
    Jobs,
    Precision,
    PrecisionChoice,
    ResultsDir,
    Retry,
    TeachersDir,
)

if TYPE_CHECKING:
    from dfkd_bench.api import Workbench
    from dfkd_bench.engines import Grid
    from dfkd_bench.spec import RunSpec


def run(
    method: Annotated[list[str], typer.Option(help="A method of `dfkd-bench methods`. May be repeated.")],
    pair: Annotated[list[str], typer.Option(help="TEACHER:STUDENT, of `dfkd-bench models`. May be repeated.")],
    dataset: Dataset = "digits",
    preset: Annotated[
        str, typer.Option(help="quick (digits on a CPU, minutes) or paper (the published schedule).")
    ] = "quick",
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Root seed, by default 0. May be repeated.")] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="[METHOD:]STAGE.OPTION=VALUE", help="Set an option, such as synthesizer.steps=500."
        ),
    ] = None,
    synthesizer: Annotated[str | None, typer.Option(help="Use this synthesizer in every method.")] = None,
    augmenter: Annotated[str | None, typer.Option(help="Use this augmenter in every method.")] = None,
    filter_: Annotated[str | None, typer.Option("--filter", help="Use this filter in every method.")] = None,
    distiller: Annotated[str | None, typer.Option(help="Use this distiller in every method.")] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="A file with the teacher's weights (.pth, .safetensors).")
    ] = None,
    data_root: DataRoot = None,
    results: ResultsDir = Path("results"),
    teachers: TeachersDir = None,
    device: Device = DeviceChoice.auto,
    precision: Precision = PrecisionChoice.auto,
    retry: Retry = None,
    engine: Engine = EngineChoice.local,
    jobs: Jobs = None,
    address: Address = None,
    gpus_per_run: GpusPerRun = None,
    cpus_per_run: CpusPerRun = 1,
    checkpoint_seconds: CheckpointSeconds = 60,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be run, and stop.")] = False,
) -> None:
    """Distil students without data, and compare the methods.

    Every method is run on every pair with every seed; what the results folder holds already is not run again.
    """
    from dfkd_bench.api import Workbench
    from dfkd_bench.cli import progress
    from dfkd_bench.cli.tables import print_comparison, update_leaderboard
    from dfkd_bench.engines import EngineOptions, run_grid

    bench = Workbench.make(
        results=results,
        teachers=teachers,
        data_root=data_root,
        device=device.value,
        precision=precision.value,
    )
    swaps = {"synthesizer": synthesizer, "augmenter": augmenter, "filter": filter_, "distiller": distiller}
    specs = bench.plan(
        method,
        pair,
        dataset=dataset,
        preset=preset,
        seeds=seed or [0],
        swaps={kind: name for kind, name in swaps.items() if name is not None},  # type: ignore[misc]
        overrides=set_ or [],
        teacher=teacher,
        keep_teacher=not dry_run,
    )
    todo = [spec for spec in specs if _is_to_do(bench, spec, retry is not None)]
    _announce(bench, specs, todo, dataset, preset)
    if dry_run:
        return
    bench.results.require_writable()
    with progress.shown(bench.registry):
        grid = run_grid(
            specs,
            bench,
            engine=engine.value,
            options=EngineOptions(jobs, address, gpus_per_run, cpus_per_run),
            checkpoint_seconds=checkpoint_seconds,
            retry=retry is not None,
        )
    records = [record for record in grid.records if record is not None]
    if records:
        update_leaderboard(bench.results)
        print_comparison(records)
        found, run_now = len(specs) - len(todo), len(todo) - grid.records.count(None)
        typer.echo(f"{found} found, {run_now} run; records and pictures in {results}/, ", nl=False)
        typer.echo(f"table in {results}/leaderboard.csv")
    _end(grid)


def _is_to_do(bench: Workbench, spec: RunSpec, retry: bool) -> bool:
    record = bench.results.read(spec.hash)
    return record is None or (retry and record.status != "finished")


def _announce(bench: Workbench, specs: list[RunSpec], todo: list[RunSpec], dataset: str, preset: str) -> None:
    from dfkd_bench.environment import describe

    where = describe(bench.execution, bench.registry)
    device = f"{where.device} ({where.hardware}), {where.precision}"
    typer.echo(f"{len(specs)} runs, {len(todo)} to do; {dataset}, preset {preset}; {device}")
    for spec in specs:
        state = "to do" if spec in todo else "done"
        stages = " -> ".join((spec.synthesizer.name, spec.augmenter.name, spec.filter.name, spec.distiller.name))
        typer.echo(f"  {spec.hash}  {state:5}  {spec.title}: {stages}")
    for network, spec in {spec.pair.teacher: spec for spec in todo}.items():
        recipe = spec.teacher.recipe
        if recipe is not None and not bench.store.has(spec.teacher, network, spec.dataset):
            note = (
                ""
                if dataset == "digits"
                else " (hours on a GPU, days on a CPU; --teacher FILE gives one that you have)"
            )
            typer.echo(f"the teacher {network} is trained first, {recipe.epochs} epochs on {dataset}, and kept{note}")
    if dataset == "digits":
        typer.echo(
            "digits are small, for a first look; for CIFAR-10 on the published schedule add "
            "--dataset cifar10 --preset paper (a GPU, hours)"
        )


def _end(grid: Grid) -> None:
    """Exit status 1 if a run failed, else 2 if something that the user can mend left runs undone."""
    failed = [record for record in grid.records if record is not None and record.status != "finished"]
    for record in failed:
        typer.echo(
            f"{record.status}: {record.spec.title} ({record.run}), last good epoch {record.last_good_epoch}: "
            f"{record.reason}",
            err=True,
        )
    for problem in grid.problems:
        typer.echo(f"dfkd-bench: {problem}", err=True)
    if failed or grid.problems:
        raise typer.Exit(1 if failed else 2)
