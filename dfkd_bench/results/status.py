"""A results folder at a glance, from any process that can read it. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from dfkd_bench.errors import DfkdError, Report, raise_it
from dfkd_bench.results import locks, progress_file
from dfkd_bench.results.code import changed
from dfkd_bench.results.pending import titles
from dfkd_bench.results.records import Record, Results
from dfkd_bench.results.scan import run_folders
from dfkd_bench.spec import RunSpec

__all__ = ["RunState", "State", "run_states"]

State = Literal["done", "running", "failed", "interrupted", "waiting"]

# Where locks cannot be asked, a progress file that is younger than this speaks for its process.
_FRESH_SECONDS = 120


@dataclass(frozen=True)
class RunState:
    """Where one run is.

    Attributes:
        run: the spec's hash.
        state: `done`; `running` (a process holds it); `failed` (a record says why); `interrupted` (begun, but nobody
            holds it: the same command resumes it); `waiting`.
        title: what a person calls it; None where nothing said so cheaply.
        status: its record's, if it has one.
        reason: why it failed.
        last_good_epoch: of a failed run.
        progress: how far a running or interrupted run is.
        seconds_left: of a running one, by its own pace so far.
        changed: of one with a record, the plugins' packages whose source has changed since: it is stale.
    """

    run: str
    state: State
    title: str | None = None
    status: str | None = None
    reason: str | None = None
    last_good_epoch: int | None = None
    progress: progress_file.Progress | None = None
    seconds_left: float | None = None
    changed: tuple[str, ...] = ()

    @property
    def percent(self) -> float | None:
        """How much of the run is behind it, by its parts; they may differ in length."""
        at = self.progress
        if at is None or not at.segments:
            return None
        return 100 * _behind(at) / at.segments


def _inner(at: progress_file.Progress) -> float:
    """The part of the present segment that is behind the run: it knows, or the phase that takes longest says so."""
    if at.part:
        return at.part
    return min(1.0, at.phase_done / at.phase_total) / 2 if at.phase_total and at.done < at.segments else 0.0


def _behind(at: progress_file.Progress) -> float:
    return at.done + _inner(at)


def run_states(
    results: Results | Path | str,
    specs: Iterable[RunSpec] | None = None,
    report: Report = raise_it,
) -> list[RunState]:
    """The state of every run of `specs`, in their order; without them, of all that the folder knows of.

    That is what was begun there, and what grids that are not done mean to do.

    Args:
        results: the folder.
        specs: the runs.
        report: called with what is wrong with each file that cannot be used, whose run is left out; by default the
            first of it is raised.
    """
    folder = results if isinstance(results, Results) else Results(Path(results))
    places: list[tuple[Results, str, str | None]]
    places = [(folder, spec.hash, spec.title) for spec in specs or ()]
    if specs is None:
        places = [(Results(path.parent), path.name, None) for path in run_folders(folder.path, report)]
    states = []
    for place in places:
        try:
            states.append(_state(*place, report))
        except DfkdError as error:
            report(error)
    if specs is None:
        known = {run for _, run, _ in places}
        waiting = ((run, title) for run, title in titles(folder, report).items() if run not in known)
        states += [RunState(run, "waiting", title) for run, title in waiting]
    return states


def _state(results: Results, run: str, title: str | None, report: Report) -> RunState:
    if (results.folder(run) / "progress.json").exists():
        return _begun(results, run, title, report)
    record = results.read(run)
    if record is not None:
        return _ended(record)
    begun = (results.folder(run) / "checkpoint.pt").exists()
    return RunState(run, "interrupted" if begun else "waiting", title)


def _begun(results: Results, run: str, title: str | None, report: Report) -> RunState:
    at = progress_file.read(results, run, report)
    title = title if at is None else at.spec.title
    if _is_held(results, run, at):
        return RunState(run, "running", title, progress=at, seconds_left=_seconds_left(at))
    # It may have ended while we looked, or before: a record is the last thing that a run writes. A file that an earlier
    # start left beside the record of a failure is of that start, and one that a retry left is of a later one.
    record = results.read(run)
    if record is not None and (record.status == "finished" or at is None or at.started == record.started):
        return _ended(record)
    return RunState(run, "interrupted", title, progress=at)


def _ended(record: Record) -> RunState:
    title, edited = record.spec.title, changed(record.environment.code)
    if record.status == "finished":
        return RunState(record.run, "done", title, record.status, changed=edited)
    return RunState(record.run, "failed", title, record.status, record.reason, record.last_good_epoch, changed=edited)


def _is_held(results: Results, run: str, at: progress_file.Progress | None) -> bool:
    try:
        return locks.is_locked(results.path, run)
    except OSError:
        return at is not None and (datetime.now(UTC) - at.updated).total_seconds() < _FRESH_SECONDS


def _seconds_left(at: progress_file.Progress | None) -> float | None:
    if at is None:
        return None
    behind = _behind(at) - at.resumed_at
    if behind <= 0 or at.going_since is None:
        return None
    took = (at.updated - at.going_since).total_seconds()
    # A clock that was put back says nothing of the run's pace.
    return took / behind * (at.segments - _behind(at)) if took > 0 else None
