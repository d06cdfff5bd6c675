"""What a person sees while runs are in progress: bars on a terminal, occasional lines elsewhere. It is a plugin."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from dfkd_bench.cli.console import console, say
from dfkd_bench.cli.console import shown as as_text
from dfkd_bench.hooks.events import RunEvent
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.hooks.specs import hookimpl
from dfkd_bench.texts import brief

__all__ = ["Bars", "Lines", "shown"]

_LINE_SECONDS = 15.0
_PHASE_SECONDS = 5.0
_TEACHER = "teacher training"
_NAMES = {"synthesizer": "synthesis", "augmenter": "augmentation", "filter": "filtering", "distiller": "distillation"}


def _title(event: RunEvent) -> str:
    return brief(event.title, 200)


def _phase(event: RunEvent) -> str:
    name = _NAMES.get(event.data["phase"], event.data["phase"])
    if "round" in event.data:
        return f"{name}, round {event.data['round'] + 1}"
    return f"{name}, epoch {event.data['epoch']}" if "epoch" in event.data else name


def _epoch(data: Any) -> str:
    losses = ", ".join(f"{name} {value:.4g}" for name, value in data["losses"].items())
    return f"epoch {data['epoch']}/{data['epochs']}: accuracy {data['accuracy']:.2f} %, {losses}"


def _outcome(event: RunEvent) -> str:
    if event.kind == "failed":
        return f"{event.data['record'].status}: {event.data['reason']}"
    accuracy = event.data["record"].accuracy
    return f"finished: last epoch {accuracy.last:.2f} %, agreement with the teacher {accuracy.agreement:.2f} %"


class Lines:
    """Plain lines: the start of each phase, each epoch, and the progress of long phases."""

    def __init__(self) -> None:
        self._said = time.monotonic()
        self._phases: dict[str, str] = {}
        self._announced: set[tuple[str, str]] = set()

    def _say(self, title: str, text: str) -> None:
        say(f"[{time.strftime('%H:%M:%S')}] {title}: {text}", err=True)
        self._said = time.monotonic()

    @hookimpl
    def dfkd_run_event(self, event: RunEvent) -> None:
        """Print what is worth a line."""
        if event.kind == "phase":
            self._phases[event.run] = _phase(event)
            # Distillation's epochs have lines of their own, and stream methods have a thousand short rounds.
            is_new = (event.run, event.data["phase"]) not in self._announced
            if event.data["phase"] != "distillation" and (is_new or time.monotonic() - self._said > _PHASE_SECONDS):
                self._say(_title(event), self._phases[event.run])
            self._announced.add((event.run, event.data["phase"]))
        elif event.kind == "progress" and time.monotonic() - self._said > _LINE_SECONDS:
            self._say(
                _title(event), f"{self._phases.get(event.run, '')}: {event.data['done']} of {event.data['total']}"
            )
        elif event.kind == "epoch":
            self._say(_title(event), _epoch(event.data))
        elif event.kind in ("finished", "failed"):
            self._say(_title(event), _outcome(event))


class Bars:
    """A bar for the current phase of each run, with the time left, and a line for each finished epoch and run."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console(err=True),
            transient=True,
        )
        self._tasks: dict[str, TaskID] = {}

    def _remove(self, run: str) -> None:
        if run in self._tasks:
            self.progress.remove_task(self._tasks.pop(run))

    @hookimpl
    def dfkd_run_event(self, event: RunEvent) -> None:
        """Move the bar."""
        if event.kind == "phase":
            if event.run not in self._tasks:
                self._tasks[event.run] = self.progress.add_task("", total=None)
            what = as_text(f"{_title(event)}: {_phase(event)}")
            self.progress.reset(self._tasks[event.run], description=what, total=None)
        elif event.kind == "progress" and event.run in self._tasks:
            self.progress.update(self._tasks[event.run], completed=event.data["done"], total=event.data["total"])
            if event.data["phase"] == _TEACHER and event.data["done"] == event.data["total"]:
                self._remove(event.run)  # a teacher has no other end
        elif event.kind == "epoch":
            self.progress.console.print(f"{_title(event)}: {_epoch(event.data)}")
        elif event.kind in ("finished", "failed"):
            self._remove(event.run)
            self.progress.console.print(f"{_title(event)}: {_outcome(event)}")


@contextmanager
def shown(registry: Registry) -> Iterator[None]:
    """Show the events of all runs inside."""
    bars = Bars() if console(err=True).is_terminal else None
    listener = bars or Lines()
    registry.listen(listener)
    try:
        if bars is None:
            yield
        else:
            with bars.progress:
                yield
    finally:
        registry.unlisten(listener)
