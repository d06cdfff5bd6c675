"""Trackers: plugins that write down what happens in runs, where the user asks for them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from dfkd_bench.errors import DfkdError
from dfkd_bench.hooks.events import RunEvent
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.hooks.specs import hookimpl

__all__ = ["Tracker", "tracking"]


class Tracker(Protocol):
    """What a registered tracker makes when it is called with the results folder (a `Path`)."""

    def hear(self, event: RunEvent) -> None:
        """Something happened in a run. Events of several runs come interleaved, one at a time."""

    def close(self) -> None:
        """No more events come."""


class _Listener:
    """A tracker that hears nothing more once it has raised: it is named once, and the runs continue."""

    def __init__(self, name: str, tracker: Tracker, report: Callable[[str], None]) -> None:
        self._name, self._tracker, self._report = name, tracker, report
        self._broken = False

    @hookimpl
    def dfkd_run_event(self, event: RunEvent) -> None:
        """Pass it on."""
        self._do(lambda: self._tracker.hear(event))

    def close(self) -> None:
        """The runs are done."""
        self._do(self._tracker.close)

    def _do(self, what: Callable[[], None]) -> None:
        if self._broken:
            return
        try:
            what()
        except Exception as error:  # whatever a stranger's tracker raises does not end a run
            self._broken = True
            self._report(f"the tracker '{self._name}' stopped ({_reason(error)}): the runs continue without it")


@contextmanager
def tracking(registry: Registry, names: Sequence[str], results: Path, report: Callable[[str], None]) -> Iterator[None]:
    """Tell these trackers what happens in all runs inside.

    Args:
        registry: who provides them, and who tells them.
        names: theirs, each once.
        results: where they write: below a run's own folder.
        report: called with one sentence if one of them raises.

    Raises:
        DfkdError: a name that nobody provides, or a tracker that cannot start, such as for a package that is missing.
    """
    listeners = [_Listener(name, _start(registry, name, results), report) for name in dict.fromkeys(names)]
    for listener in listeners:
        registry.listen(listener)
    try:
        yield
    finally:
        for listener in listeners:
            registry.unlisten(listener)
            listener.close()


def _start(registry: Registry, name: str, results: Path) -> Tracker:
    make = registry.load("tracker", name)
    try:
        tracker: Tracker = make(results)
    except DfkdError:
        raise
    except Exception as error:
        raise DfkdError(f"the tracker '{name}' cannot start ({_reason(error)}): leave out --tracker {name}") from error
    return tracker


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
