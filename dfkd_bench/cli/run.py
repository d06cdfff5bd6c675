"""`dfkd-bench run`: methods x pairs x seeds, or a grid file, then one comparison table."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfkd_bench.builtin import DEFAULT_DATASET
from dfkd_bench.cli.console import complain, say
from dfkd_bench.cli.options import (
    Address,
    CheckpointSeconds,
    CpusPerRun,
    DataRoot,
    Device,
    DeviceChoice,
    Engine,
    EngineChoice,
    GpusPerRun,
    Jobs,
    Precision,
    PrecisionChoice,
    ProtocolChoice,
    ResultsDir,
    Retry,
    TeachersDir,
    examples,
)
from dfkd_bench.errors import DfkdError, Report
from dfkd_bench.no_gc import without_gc

if TYPE_CHECKING:
    from dfkd_bench.engines import GridOutcome
    from dfkd_bench.planning.grid_file import Planned
    from dfkd_bench.spec import RunSpec
    from dfkd_bench.workbench import Workbench

EXAMPLES = examples(
    "dfkd-bench run --method dda --pair wrn40_2:wrn16_1",
    "dfkd-bench run --method cmi --method noise --pair wrn40_2:wrn16_1 --seeds 3 --set cmi:synthesizer.steps=100",
)


def run(
    method: Annotated[list[str] | None, typer.Option(help="A method of `dfkd-bench methods`. May be repeated.")] = None,
    pair: Annotated[
        list[str] | None, typer.Option(help="TEACHER:STUDENT, networks of `dfkd-bench models`. May be repeated.")
    ] = None,
    grid: Annotated[Path | None, typer.Option(help="A grid file (TOML) that lists the runs.")] = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="HASH", help="Run only the run with this hash. May be repeated.")
    ] = None,
    dataset: Annotated[
        str | None,
        typer.Option(help=f"A dataset of `dfkd-bench datasets`, or folder:PATH; by default {DEFAULT_DATASET}."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="quick (small images on a CPU, minutes; the default) or paper (the published schedule)."),
    ] = None,
    protocol: Annotated[
        ProtocolChoice | None,
        typer.Option(help="native (each method's own schedule; the default) or matched (one budget for all)."),
    ] = None,
    seed: Annotated[list[int] | None, typer.Option(min=0, help="Root seed, by default 0. May be repeated.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, metavar="N", help="The seeds 0 to N-1.")] = None,
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
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and exit.")] = False,
) -> None:
    """Distill students without data, and compare the methods.

    Every method runs on every pair with every seed; runs that the results folder already holds are not repeated.
    """
    from dfkd_bench.cli.chosen_runs import left, planned

    asked = {
        "method": method,
        "pair": pair,
        "dataset": dataset,
        "preset": preset,
        "protocol": None if protocol is None else protocol.value,
        "seed": seed,
        "seeds": seeds,
        "set": set_,
        "synthesizer": synthesizer,
        "augmenter": augmenter,
        "filter": filter_,
        "distiller": distiller,
        "teacher": teacher,
    }
    with without_gc():
        from dfkd_bench.workbench import Workbench

        bench = Workbench.make(
            results=results,
            teachers=teachers,
            data_root=data_root,
            device=device.value,
            precision=precision.value,
            here=engine is not EngineChoice.ray,
        )
        runs = planned(bench, grid, only or [], asked, keep_teacher=not dry_run)
        odd: list[DfkdError] = []
        states = _states(bench, runs, retry is not None, odd.append)
    specs = [run.spec for run in runs]
    todo = [spec for spec in specs if states[spec.hash] == "to do"]
    _announce(bench, runs, states, _where(bench, engine))
    if dry_run:
        if todo:
            say(left(bench, todo))
        for error in odd:
            complain(error)
        if odd:
            raise typer.Exit(2)
        return
    from dfkd_bench.cli import display
    from dfkd_bench.cli.tables import print_comparison, report_damage  # slow to import, and not needed before
    from dfkd_bench.engines import run_grid
    from dfkd_bench.engines.base import EngineOptions
    from dfkd_bench.leaderboard.update import update_leaderboard

    bench.results.require_writable()
    try:
        with display.shown(bench.registry):
            done = run_grid(
                specs,
                bench,
                engine=engine.value,
                options=EngineOptions(jobs, address, gpus_per_run, cpus_per_run),
                checkpoint_seconds=checkpoint_seconds,
                retry=retry is not None,
            )
    except KeyboardInterrupt:
        complain("interrupted; the same command continues from the last checkpoints")
        raise typer.Exit(130) from None
    records = [record for record in done.records if record is not None]
    if records:
        update_leaderboard(bench.results, report_damage)
        print_comparison(records)
        found, run_now = len(specs) - len(todo) - len(odd), len(records) - len(specs) + len(todo) + len(odd)
        what = f"{found} found, {run_now} run; records and pictures in {results}/"
        say(f"{what}, table in {results}/leaderboard.csv")
    _end(done)


def _states(bench: Workbench, runs: list[Planned], retry: bool, report: Report) -> dict[str, str]:
    """For each run's hash: `to do`, `done`, how it failed, or `odd` where its record cannot be read."""
    states = {}
    for run in runs:
        try:
            record = bench.results.read(run.spec.hash)
        except DfkdError as error:
            states[run.spec.hash] = "odd"
            report(error)
            continue
        if record is None or (retry and record.status != "finished"):
            states[run.spec.hash] = "to do"
        else:
            states[run.spec.hash] = "done" if record.status == "finished" else record.status
    return states


def _where(bench: Workbench, engine: EngineChoice) -> str:
    """Device and precision of the runs."""
    from dfkd_bench.environment import describe

    if engine is EngineChoice.ray:
        return "a Ray cluster, device {}, precision {}".format(*bench.execution.asked)
    where = describe(bench.execution, bench.registry)
    return f"{where.device} ({where.hardware}), {where.precision}"


# From so many epochs of a teacher's training on, the user is warned.
_LONG_TRAINING = 50


def _announce(bench: Workbench, runs: list[Planned], states: Mapping[str, str], where: str) -> None:
    todo = [run.spec for run in runs if states[run.spec.hash] == "to do"]
    datasets, presets = ({getattr(run.spec, name) for run in runs} for name in ("dataset", "preset"))
    what = f"{', '.join(sorted(datasets))}, preset {', '.join(sorted(presets))}"
    say(f"{len(runs)} runs, {len(todo)} to do; {what}; {where}")
    for run in runs:
        spec = run.spec
        stages = " -> ".join((spec.synthesizer.name, spec.augmenter.name, spec.filter.name, spec.distiller.name))
        more = [f"preset {spec.preset}"] * (len(presets) > 1) + [spec.protocol] * (spec.protocol != "native")
        more += [f"'{run.label}'"] * (run.label != spec.method)
        say(f"  {spec.hash}  {states[spec.hash]:5}  {', '.join([spec.title, *more])}: {stages}")
    for (network, dataset), spec in {(spec.pair.teacher, spec.dataset): spec for spec in todo}.items():
        recipe = spec.teacher.recipe
        if recipe is not None and not bench.store.has(spec.teacher, network, spec.dataset):
            long = recipe.epochs > _LONG_TRAINING
            note = " (hours on a GPU, days on a CPU; --teacher FILE takes one that you have)" if long else ""
            say(f"the teacher {network} is trained first, {recipe.epochs} epochs on {dataset}, and kept{note}")
    for sentence in _warnings(bench, todo):
        say(sentence)
    hint = bench.card(next(iter(datasets))).hint if len(datasets) == 1 else None
    if hint is not None:
        say(hint)


def _warnings(bench: Workbench, todo: list[RunSpec]) -> list[str]:
    """What the stages want the user to know before the runs start, each once."""
    from dfkd_bench.planning.compatibility import warnings

    cards = {dataset: bench.card(dataset) for dataset in {spec.dataset for spec in todo}}
    settings = {spec.settings: spec for spec in todo}.values()
    return list(
        dict.fromkeys(text for spec in settings for text in warnings(spec, cards[spec.dataset], bench.registry))
    )


def _end(outcome: GridOutcome) -> None:
    """Exit status 1 if a run failed, else 2 if something that the user can fix left runs undone."""
    failed = [record for record in outcome.records if record is not None and record.status != "finished"]
    for record in failed:
        say(
            f"{record.status}: {record.spec.title} ({record.run}), last good epoch {record.last_good_epoch}: "
            f"{record.reason}",
            err=True,
        )
    for problem in outcome.problems:
        complain(problem)
    if failed or outcome.problems:
        raise typer.Exit(1 if failed else 2)
