"""Engines: where the runs of a grid are executed. One run, one lock, one record, whichever engine does it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dfkd_bench.engines.base import Ending, Engine, EngineName, EngineOptions, Relay
from dfkd_bench.engines.settings import WorkerSettings
from dfkd_bench.errors import DfkdError
from dfkd_bench.hooks.events import RunEvent
from dfkd_bench.results import locks, pending
from dfkd_bench.results.again import Again
from dfkd_bench.results.records import Record
from dfkd_bench.spec import RunSpec

if TYPE_CHECKING:
    from dfkd_bench.workbench import Workbench

__all__ = ["Engine", "EngineName", "EngineOptions", "GridOutcome", "require_all", "run_grid"]

_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class GridOutcome:
    """What became of a grid.

    Attributes:
        records: by spec, in the order of the specs; None where a problem left no record.
        problems: what stands in the way of runs without a record, each sentence once.
        made: how many of the records this grid made; other processes may have made some meanwhile.
    """

    records: list[Record | None]
    problems: list[str]
    made: int = 0


def run_grid(
    specs: Sequence[RunSpec],
    bench: Workbench,
    *,
    engine: EngineName = "local",
    options: EngineOptions | None = None,
    checkpoint_seconds: float = 60.0,
    retry: bool = False,
    keep_bank: bool = False,
    rerun_stale: bool = False,
) -> GridOutcome:
    """Do every run that has no record yet, each once, whoever else works on the same results folder.

    Args:
        specs: the runs.
        bench: folders, device, and whom to tell what happens.
        engine: `local` (a process per run), `ray` (a cluster), `inline` (in this process).
        options: the engine's.
        checkpoint_seconds: least time between a run's checkpoints.
        retry: run again what has a record but did not finish.
        keep_bank: leave final images and students' weights beside the records.
        rerun_stale: run again what other source of its plugins made than is there now.

    Raises:
        DfkdError: the engine or the results folder cannot be used.
    """
    bench.results.require_writable()
    again = Again(failed=retry, stale=rerun_stale)
    settings = WorkerSettings.of(bench, checkpoint_seconds=checkpoint_seconds, again=again, keep_bank=keep_bank)
    turn = threading.Lock()

    def relay(event: RunEvent) -> None:
        with turn:
            bench.registry.emit(event, relayed=True)

    made = _make(engine, settings, options or EngineOptions(), relay, bench)
    problems: dict[str, None] = {}
    before = {}
    for spec in specs:
        try:
            before[spec.hash] = bench.results.read(spec.hash)
        except DfkdError as error:  # the others are done all the same
            problems[str(error)] = None
    sound = [spec for spec in specs if spec.hash in before]
    held: list[RunSpec] = []
    made_here: set[str] = set()

    def on_done(spec: RunSpec, ending: Ending) -> None:
        if ending.kind == "record":
            made_here.add(spec.hash)
        elif ending.kind == "held":
            held.append(spec)
        elif ending.kind == "problem":
            problems[ending.sentence] = None
            bench.results.require_writable()  # if it is this, no other run can continue either

    todo = [spec for spec in sound if not again.stands(before[spec.hash], before[spec.hash])]
    pending.add(bench.results, specs)
    while todo:
        made.run(todo, before, on_done)
        waiting, held = held, []
        todo = _wait_for(waiting, held, bench, before, again, relay)
    records = [bench.results.read(spec.hash) if spec.hash in before else None for spec in specs]
    if None not in records:
        pending.remove(bench.results, specs)
    return GridOutcome(records, list(problems), len(made_here))


def _make(
    engine: EngineName, settings: WorkerSettings, options: EngineOptions, relay: Relay, bench: Workbench
) -> Engine:
    if engine == "inline":
        from dfkd_bench.engines.inline import InlineEngine

        return InlineEngine(bench, settings)
    if engine == "ray":
        from dfkd_bench.engines.ray import RayEngine

        # Each node settles `auto` for itself: the machine that asks may have no GPU, or another processor.
        device, precision = bench.execution.asked
        return RayEngine(settings.model_copy(update={"device": device, "precision": precision}), options, relay)
    from dfkd_bench.engines.local import LocalEngine

    return LocalEngine(settings, options, relay)


def _wait_for(
    waiting: list[RunSpec],
    held: list[RunSpec],
    bench: Workbench,
    before: Mapping[str, Record | None],
    again: Again,
    relay: Relay,
) -> list[RunSpec]:
    """Those of `waiting` that no other process does any more and that have no record; the others go to `held`."""
    for spec in waiting[:1]:
        relay(RunEvent("phase", spec.hash, spec.title, {"phase": "waiting for another process"}))
    while waiting:
        free = [spec for spec in waiting if not locks.is_locked(bench.results.path, spec.hash)]
        waiting = [spec for spec in waiting if spec not in free]
        todo = [spec for spec in free if not again.stands(bench.results.read(spec.hash), before[spec.hash])]
        if todo:
            held.extend(waiting)
            return todo
        if waiting:
            time.sleep(_POLL_SECONDS)
    return []


def require_all(specs: Sequence[RunSpec], grid: GridOutcome) -> list[Record]:
    """The records of a grid.

    Raises:
        DfkdError: some runs have none; the first problem is named.
    """
    records = [record for record in grid.records if record is not None]
    if len(records) < len(specs):
        first = grid.problems[0] if grid.problems else "they were not done"
        raise DfkdError(f"{len(specs) - len(records)} of {len(specs)} runs have no record: {first}")
    return records
