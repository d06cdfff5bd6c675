"""What an engine is, how it shares out a machine, and how a try to do a run ends. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from dfkd_bench.hooks.events import RunEvent
from dfkd_bench.results.records import Record
from dfkd_bench.spec import RunSpec

__all__ = ["Ending", "Engine", "EngineName", "EngineOptions", "OnDone", "Relay"]

EngineName = Literal["local", "ray", "inline"]
Relay = Callable[[RunEvent], None]


@dataclass(frozen=True)
class Ending:
    """How a try to do a run ended.

    Attributes:
        kind: `record` (this try made it), `found` (another process had made it), `held` (another process does it), or
            `problem`: something that the user can fix stands in the way, and there is no record.
        sentence: the problem.
    """

    kind: Literal["record", "found", "held", "problem"]
    sentence: str = ""


OnDone = Callable[[RunSpec, Ending], None]
"""Called with each spec as a try to do it ends."""


@dataclass(frozen=True)
class EngineOptions:
    """How an engine shares out the machine.

    Attributes:
        jobs: runs at once (local); by default one per GPU, or one on the CPU.
        address: the Ray cluster's, `auto` for the one that this machine belongs to; by default $RAY_ADDRESS's, or a new
            one of this machine alone.
        gpus_per_run: a run's share of GPUs (ray); by default 1 if the cluster has GPUs, unless `cpu` is asked for.
        cpus_per_run: a run's processors (ray).
    """

    jobs: int | None = None
    address: str | None = None
    gpus_per_run: float | None = None
    cpus_per_run: float = 1


class Engine(Protocol):
    """Tries runs, several at once if it can."""

    def run(self, specs: Sequence[RunSpec], before: Mapping[str, Record | None], on_done: OnDone) -> None:
        """Try each spec once; `on_done(spec, ending)` is called in this thread as each try ends.

        When it raises, `on_done` included, nothing of it keeps running.
        """
