"""`dfkd-bench run`: methods x pairs x seeds, or a grid file, then one comparison table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfkd_bench.builtin import DEFAULT_DATASET
from dfkd_bench.cli.console import complain, say
from dfkd_bench.cli.options import (
    Address,
    CheckpointSeconds,
    Compile,
    CpusPerRun,
    DataRoot,
    Deterministic,
    Device,
    DeviceChoice,
    Engine,
    EngineChoice,
    GpusPerRun,
    Graphs,
    Jobs,
    Precision,
    PrecisionChoice,
    ProtocolChoice,
    Rerun,
    ResultsDir,
    Retry,
    TeachersDir,
    examples,
)
from dfkd_bench.errors import DfkdError, Report
from dfkd_bench.no_gc import without_gc
from dfkd_bench.spec import MOST_SEEDS

if TYPE_CHECKING:
    from dfkd_bench.engines import GridOutcome
    from dfkd_bench.planning.grid_file import Planned
    from dfkd_bench.results.again import Again
    from dfkd_bench.results.records import Record
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
    study: Annotated[
        str | None,
        typer.Option(help="A grid file that comes with a plugin: threshold, variations, strength, augmenters, ..."),
    ] = None,
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
    seeds: Annotated[int | None, typer.Option(min=1, max=MOST_SEEDS, metavar="N", help="The seeds 0 to N-1.")] = None,
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
    deterministic: Deterministic = False,
    compile_: Compile = False,
    graphs: Graphs = False,
    retry: Retry = None,
    rerun: Rerun = None,
    engine: Engine = EngineChoice.local,
    jobs: Jobs = None,
    address: Address = None,
    gpus_per_run: GpusPerRun = None,
    cpus_per_run: CpusPerRun = 1,
    checkpoint_seconds: CheckpointSeconds = 60,
    tracker: Annotated[
        list[str] | None,
        typer.Option(help="Also write events into each run's folder: tensorboard, jsonl. May be repeated."),
    ] = None,
    keep_bank: Annotated[
        bool, typer.Option("--keep-bank", help="Keep the final images and the student, for export and measure.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs and what they will compute, and exit.")
    ] = False,
) -> None:
    """Distill students without data, and compare the methods.

    Every method runs on every pair with every seed; runs that the results folder already holds are not repeated.
    """
    from dfkd_bench.cli.chosen_runs import planned
    from dfkd_bench.results.again import Again

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
            deterministic=deterministic,
            compile=compile_,
            graphs=graphs,
        )
        grid = _study(bench, study, grid)
        runs = planned(bench, grid, only or [], asked, keep_teacher=not dry_run)
        odd: list[DfkdError] = []
        states, stale = _states(bench, runs, Again(failed=retry is not None, stale=rerun is not None), odd.append)
    specs = [run.spec for run in runs]
    todo = [spec for spec in specs if states[spec.hash] == "to do"]
    _announce(bench, runs, states, _where(bench, engine))
    if keep_bank:
        _say_what_is_not_kept(bench, [spec for spec in specs if states[spec.hash] == "done"])
    if stale:
        say(_stale_sentence(stale))
    if dry_run:
        _end_dry_run(bench, runs, todo, odd)
        return
    from dfkd_bench.cli import display
    from dfkd_bench.cli.study import write_study
    from dfkd_bench.cli.tables import (  # slow to import, and not needed before
        print_comparison,
        report_damage,
    )
    from dfkd_bench.engines import run_grid
    from dfkd_bench.engines.base import EngineOptions
    from dfkd_bench.hooks.trackers import tracking
    from dfkd_bench.leaderboard.update import update_leaderboard
    from dfkd_bench.planning.installed import Installed

    bench.results.require_writable()
    try:
        with (
            tracking(bench.registry, tracker or [], bench.results.path, complain),
            display.shown(bench.registry),
        ):
            done = run_grid(
                specs,
                bench,
                engine=engine.value,
                options=EngineOptions(jobs, address, gpus_per_run, cpus_per_run),
                checkpoint_seconds=checkpoint_seconds,
                retry=retry is not None,
                keep_bank=keep_bank,
                rerun_stale=rerun is not None,
            )
    except KeyboardInterrupt:
        complain("interrupted; the same command continues from the last checkpoints")
        raise typer.Exit(130) from None
    records = [record for record in done.records if record is not None]
    if records:
        known = Installed(bench.registry)
        update_leaderboard(bench.results, report_damage, known)
        print_comparison(records, known)
        found, run_now = len(records) - done.made, done.made
        marked = f" ({len(stale)} of them stale)" if stale else ""
        what = f"{found} found{marked}, {run_now} run; records and pictures in {results}/"
        say(f"{what}, table in {results}/leaderboard.csv")
        if study is not None and grid is not None and any(record.accuracy is not None for record in records):
            write_study(study, grid, runs, records, results)
    for sentence in _doubtful_teachers(bench, records):
        complain(sentence)
    _end(done)


def _end_dry_run(bench: Workbench, runs: Sequence[Planned], todo: Sequence[RunSpec], odd: Sequence[DfkdError]) -> None:
    """What is left, what it computes, and exit status 2 if a record cannot be read."""
    from dfkd_bench.cli.chosen_runs import left, projected

    if todo:
        say(left(bench, todo))
    for line in projected(bench, runs):
        say(line)
    for error in odd:
        complain(error)
    if odd:
        raise typer.Exit(2)


def _study(bench: Workbench, study: str | None, grid: Path | None) -> Path | None:
    """The grid file that is meant."""
    from dfkd_bench.errors import unknown_name

    if study is None:
        return grid
    if grid is not None:
        raise DfkdError("--study is a grid file that comes with a plugin: leave out --grid, or --study")
    known = bench.registry.studies()
    if study not in known:
        raise unknown_name("study", study, known)
    return known[study]


def _say_what_is_not_kept(bench: Workbench, done: list[RunSpec]) -> None:
    from dfkd_bench.results.scan import STUDENT_FILE

    lacking = sum(not (bench.results.folder(spec.hash) / STUDENT_FILE).exists() for spec in done)
    if lacking:
        say(f"{lacking} runs are done already and kept no images: another --results runs them anew")


def _states(
    bench: Workbench, runs: list[Planned], again: Again, report: Report
) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """For each run's hash `to do`, `done`, `stale`, how it failed, or `odd` where its record cannot be read.

    And of the stale ones whose code has changed.
    """
    from dfkd_bench.results.code import changed

    states: dict[str, str] = {}
    stale: dict[str, tuple[str, ...]] = {}
    for run in runs:
        name = run.spec.hash
        try:
            record = bench.results.read(name)
        except DfkdError as error:
            states[name] = "odd"
            report(error)
            continue
        if record is None or again.wants(record):
            states[name] = "to do"
            continue
        states[name] = "done" if record.status == "finished" else record.status
        edited = changed(record.environment.code, needed=True)
        if edited:
            stale[name] = edited
            states[name] = "stale" if record.status == "finished" else record.status
    return states, stale


def _stale_sentence(stale: Mapping[str, tuple[str, ...]]) -> str:
    packages = ", ".join(sorted({name for names in stale.values() for name in names}))
    were = "1 run found is stale: it was" if len(stale) == 1 else f"{len(stale)} runs found are stale: they were"
    return f"{were} made by other code of {packages} than is installed now; --rerun stale runs it again"


def _where(bench: Workbench, engine: EngineChoice) -> str:
    """Device and precision of the runs."""
    from dfkd_bench.environment import describe

    compiled = ", compiled" if bench.execution.compile else ""
    if engine is EngineChoice.ray:
        return "a Ray cluster, device {}, precision {}".format(*bench.execution.asked) + compiled
    where = describe(bench.execution, bench.registry, computing=False)
    return f"{where.device} ({where.hardware}), {where.precision}{compiled}"


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


def _doubtful_teachers(bench: Workbench, records: Iterable[Record]) -> list[str]:
    """A sentence for each teacher that does little better than guessing."""
    from dfkd_bench.teachers.store import near_chance

    records = [record for record in records if record.teacher is not None]
    classes = {name: bench.card(name).num_classes for name in {record.spec.dataset for record in records}}
    found = {}
    for record in records:
        teacher = record.teacher
        if teacher is not None and near_chance(teacher.accuracy, classes[record.spec.dataset]):
            found[teacher.sha256] = (
                f"the teacher {teacher.model} ({teacher.source}) is right on {teacher.accuracy:.2f} % of "
                f"{record.spec.dataset}'s test split, near chance: its students have nothing to learn"
            )
    return list(found.values())


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
