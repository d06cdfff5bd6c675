"""`dfkd-bench status`: which runs are done, running or failed, from another terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfkd_bench.cli.console import end_with, say
from dfkd_bench.cli.options import DataRoot, ResultsDir, examples
from dfkd_bench.no_gc import without_gc

if TYPE_CHECKING:
    from dfkd_bench.results.status import RunState

EXAMPLES = examples("dfkd-bench status", "dfkd-bench status --results results --grid grid.toml")


def status(
    results: ResultsDir = Path("results"),
    grid: Annotated[Path | None, typer.Option(help="Show the runs of this grid file, and no others.")] = None,
    data_root: DataRoot = None,
) -> None:
    """Show the state of every run in a results folder, also while runs are in progress."""
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.results.status import run_states

    if not results.is_dir():
        raise DfkdError(f"there is no results folder {results}: run something first, or name another with --results")
    specs = None
    if grid is not None:
        with without_gc():
            from dfkd_bench import api
            from dfkd_bench.workbench import Workbench  # knows networks, and so imports torch

            bench = Workbench.make(results=results, data_root=data_root, device="cpu")
            specs = [planned.spec for planned in api.plan_grid(bench, grid, keep_teacher=False)]
    odd: list[DfkdError] = []
    show(run_states(results, specs, odd.append))
    end_with(odd)


def show(states: list[RunState]) -> None:
    """Print counts, then a line for each run that is neither done nor waiting."""
    names = ("done", "running", "failed", "interrupted", "waiting")
    counts = [f"{sum(s.state == name for s in states)} {name}" for name in names]
    say(f"{len(states)} runs: {', '.join(counts)}")
    for name, line in (("running", _running), ("failed", _failed), ("interrupted", _interrupted)):
        for state in states:
            if state.state == name:
                say(f"  {name:11}  {state.run}  {state.title or ''}: {line(state)}")
    stale = [state for state in states if state.changed]
    for state in stale:
        edited = ", ".join(state.changed)
        say(f"  {'stale':11}  {state.run}  {state.title or ''}: the code of {edited} has changed since")
    if any(state.state == "interrupted" for state in states):
        say("Start the same command again to continue the interrupted runs.")
    if any(state.state == "failed" for state in states):
        say("Add --retry failed to run the failed ones again.")
    if stale:
        say(f"{len(stale)} of the runs with a record are stale: add --rerun stale to run them again.")


def _running(state: RunState) -> str:
    at = state.progress
    if at is None or state.percent is None:
        return "starting"
    parts = [f"{state.percent:.0f} %"]
    if at.curve:
        last = at.curve[-1]
        parts.append(f"epoch {last.epoch} of {at.spec.schedule.epochs}, accuracy {last.accuracy:.2f} %")
    if at.phase:
        parts.append(at.phase + (f" {at.phase_done} of {at.phase_total}" if at.phase_total else ""))
    if state.seconds_left is not None:
        parts.append(f"{_duration(state.seconds_left)} left")
    return ", ".join([*parts, f"on {at.host}"])


def _failed(state: RunState) -> str:
    return f"{state.status} after epoch {state.last_good_epoch}: {state.reason}"


def _interrupted(state: RunState) -> str:
    at = state.progress
    if at is None or state.percent is None:
        return "started"
    return f"{state.percent:.0f} % at {at.updated:%Y-%m-%d %H:%M} UTC on {at.host}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
