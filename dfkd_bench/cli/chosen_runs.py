"""From a command's options to its runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfkd_bench.errors import DfkdError

if TYPE_CHECKING:
    from dfkd_bench.planning.grid_file import Planned
    from dfkd_bench.spec import RunSpec
    from dfkd_bench.workbench import Workbench

__all__ = ["left", "planned", "projected"]


def planned(
    bench: Workbench, grid: Path | None, only: Sequence[str], asked: Mapping[str, Any], *, keep_teacher: bool
) -> list[Planned]:
    """The runs of a grid file, or of the options that were given.

    Args:
        bench: where they will run.
        grid: the file, or None.
        only: hashes of the runs that are wanted; empty: all.
        asked: what the other options say, by their names without dashes; None if not given.
        keep_teacher: keep the teachers' files in the store; else only check them.

    Raises:
        DfkdError: options contradict each other, or what they ask for cannot be.
    """
    given = {name: value for name, value in asked.items() if value not in (None, [])}
    if grid is not None:
        if given:
            options = ", ".join(f"--{name}" for name in given)
            raise DfkdError(f"--grid says what is run: leave out {options}, or write it into {grid}")
        from dfkd_bench.api import plan_grid

        runs = plan_grid(bench, grid, keep_teacher=keep_teacher)
    else:
        runs = _by_options(bench, given, keep_teacher)
    by_hash = {run.spec.hash: run for run in runs}
    strange = [name for name in only if name not in by_hash]
    if strange:
        where = f"{grid} has" if grid is not None else "these options give"
        raise DfkdError(f"{where} no run {strange[0]}: --dry-run lists the runs there are")
    return [by_hash[name] for name in dict.fromkeys(only)] if only else runs


def _by_options(bench: Workbench, given: Mapping[str, Any], keep_teacher: bool) -> list[Planned]:
    from dfkd_bench.api import plan
    from dfkd_bench.builtin import DEFAULT_DATASET
    from dfkd_bench.hooks.registry import STAGE_KINDS
    from dfkd_bench.planning.grid_file import Planned

    if "method" not in given or "pair" not in given:
        raise DfkdError("say what to run: --method and --pair, or a grid file with --grid")
    if "seed" in given and "seeds" in given:
        raise DfkdError("--seeds N is the seeds 0 to N-1 and --seed names one: give one of the two")
    specs = plan(
        bench,
        given["method"],
        given["pair"],
        dataset=given.get("dataset", DEFAULT_DATASET),
        preset=given.get("preset", "quick"),
        protocol=given.get("protocol", "native"),
        seeds=given.get("seed") or range(given.get("seeds", 1)),
        swaps={kind: given[kind] for kind in STAGE_KINDS if kind in given},
        overrides=given.get("set", ()),
        teacher=given.get("teacher"),
        keep_teacher=keep_teacher,
    )
    return [Planned(spec, spec.method) for spec in specs]


def left(bench: Workbench, todo: Sequence[RunSpec]) -> str:
    """How long the remaining runs will take, as a sentence."""
    from dfkd_bench.environment import describe
    from dfkd_bench.results.estimate import estimate

    here = describe(bench.execution, bench.registry, computing=False)
    known = bench.results.records(lambda error: None)
    return "left: " + estimate(todo, known, here).sentence()


def projected(bench: Workbench, runs: Sequence[Planned]) -> Iterator[str]:
    """What runs will compute, a line for each setting: seeds share it."""
    from dfkd_bench.planning.projection import project, sentence

    for run in {run.spec.settings: run for run in runs}.values():
        spec = run.spec
        yield f"projected: {run.label} {spec.pair} {spec.dataset}, each seed: " + sentence(
            project(spec, bench.card(spec.dataset), bench.registry)
        )
