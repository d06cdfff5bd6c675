"""The Python API: the command line only parses, calls this, and prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfkd_bench.builtin import DEFAULT_DATASET
from dfkd_bench.engines import require_all, run_grid
from dfkd_bench.engines.base import EngineName, EngineOptions
from dfkd_bench.errors import DfkdError
from dfkd_bench.hooks.registry import StageKind
from dfkd_bench.planning import requests
from dfkd_bench.planning.grid_file import Planned, plan_file
from dfkd_bench.planning.requests import PARTS, Override, Request, recipe_with
from dfkd_bench.results.records import Record
from dfkd_bench.spec import Pair, Protocol, RunSpec, TeacherRef
from dfkd_bench.workbench import Workbench

if TYPE_CHECKING:
    from dfkd_bench.card import DatasetCard, TeacherRecipe

__all__ = ["Workbench", "plan", "plan_grid", "run", "run_all"]


def plan(
    bench: Workbench,
    methods: Sequence[str],
    pairs: Sequence[str],
    *,
    dataset: str = DEFAULT_DATASET,
    preset: str = "quick",
    protocol: Protocol = "native",
    seeds: Sequence[int] = (0,),
    swaps: Mapping[StageKind, str] | None = None,
    overrides: Sequence[str | Override] = (),
    teacher: Path | str | None = None,
    keep_teacher: bool = True,
) -> list[RunSpec]:
    """The product of methods, pairs and seeds, each checked.

    A teacher's file is measured and kept in the store, unless `keep_teacher` is false: then it is only checked.

    Raises:
        DfkdError: what is wrong, in one sentence.
    """
    card = bench.card(dataset)
    parsed = [Pair.parse(pair) for pair in pairs]
    asked = [Override.parse(o, PARTS) if isinstance(o, str) else o for o in overrides]
    recipe = _recipe(card, [o for o in asked if o.part == "teacher"], teacher)
    request = Request(
        methods=methods,
        pairs=parsed,
        dataset=card.name,
        teacher=TeacherRef(recipe=recipe),
        preset=preset,
        protocol=protocol,
        seeds=seeds,
        swaps=swaps or {},
        overrides=[o for o in asked if o.part != "teacher"],
    )
    if teacher is None:
        return requests.plan(request, card, bench.registry)
    requests.plan(request, card, bench.registry)  # names before files: a typo is reported at once
    networks = {pair.teacher for pair in parsed}
    if len(networks) > 1:
        raise DfkdError(f"--teacher gives one network's weights, but the pairs name {', '.join(sorted(networks))}")
    given = _given_teacher(bench, Path(teacher), networks.pop(), card.name, keep_teacher)
    return requests.plan(replace(request, teacher=given), card, bench.registry)


def plan_grid(bench: Workbench, file: Path | str, *, keep_teacher: bool = True) -> list[Planned]:
    """Every run of a grid file, which is checked as a whole first. Teachers' files are treated as in `plan`.

    Raises:
        DfkdError: what is wrong, a sentence for each mistake.
    """

    def teacher(dataset: str, network: str, weights: Path | Mapping[str, Any] | None) -> TeacherRef:
        if not isinstance(weights, Path):
            return TeacherRef(recipe=recipe_with(bench.card(dataset).teacher_recipe, weights or {}))
        return _given_teacher(bench, weights, network, dataset, keep_teacher)

    return plan_file(Path(file), bench.registry, bench.card, teacher)


def _recipe(card: DatasetCard, settings: Sequence[Override], weights: Path | str | None) -> TeacherRecipe:
    """The dataset's recipe for teachers, with what is set otherwise."""
    for override in settings:
        name = f"teacher.{override.option}"
        if weights is not None:
            raise DfkdError(f"--teacher gives the weights, so nothing is trained: leave out --set {name}")
        if override.method is not None:
            raise DfkdError(f"--set {override.method}:{name} names a method, but all methods have one teacher: {name}=")
    return recipe_with(card.teacher_recipe, {override.option: override.value for override in settings})


def _given_teacher(bench: Workbench, file: Path, network: str, dataset: str, keep: bool) -> TeacherRef:
    if keep:
        return TeacherRef(sha256=bench.store.import_file(file, network, dataset).identity)
    return TeacherRef(sha256=bench.store.check_file(file, network, dataset))


def run_all(
    bench: Workbench,
    specs: Sequence[RunSpec],
    *,
    engine: EngineName = "local",
    options: EngineOptions | None = None,
    **how: Any,
) -> list[Record]:
    """The records of many specs, in their order; see `engines.run_grid`.

    The engines `local` and `ray` do each run in a process of its own, which knows the installed plugins only.

    Raises:
        DfkdError: runs have no record, because something that the user can fix stands in the way.
    """
    return require_all(specs, run_grid(specs, bench, engine=engine, options=options, **how))


def run(
    method: str = "dda",
    pair: str = "wrn40_2:wrn16_1",
    *,
    dataset: str = DEFAULT_DATASET,
    preset: str = "quick",
    protocol: Protocol = "native",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    swaps: Mapping[StageKind, str] | None = None,
    teacher: Path | str | None = None,
    **places: Any,
) -> Record:
    """Run one method on one pair and return its record; a record that is there already is returned as it is.

    Args:
        method: a method's name (`dfkd-bench methods` lists them).
        pair: `TEACHER:STUDENT`.
        dataset: a dataset's name or `folder:PATH`.
        preset: `quick`, `paper` or another that the method has.
        protocol: `native` for the method's own schedule, `matched` for the budget that all methods share.
        seed: root seed of all random streams.
        options: such as `{"synthesizer.steps": 500, "schedule.epochs": 10, "teacher.epochs": 30}`.
        swaps: other stages, such as `{"augmenter": "classic"}`.
        teacher: a file with the teacher's weights; by default one is trained, once.
        places: `results`, `teachers`, `data_root`, `device`, `precision`, `deterministic`, `graphs`, `compile` as on
            the command line.

    Raises:
        DfkdError: a mistake in what was asked, in one sentence.
    """
    from dfkd_bench.runs.runner import run_spec  # planning does without it, and it takes its time

    bench = Workbench.make(**places)
    overrides = [replace(Override.parse(f"{name}=?", PARTS), value=value) for name, value in (options or {}).items()]
    (spec,) = plan(
        bench,
        [method],
        [pair],
        dataset=dataset,
        preset=preset,
        protocol=protocol,
        seeds=[seed],
        swaps=swaps,
        overrides=overrides,
        teacher=teacher,
    )
    return run_spec(spec, bench.results, bench.store)
