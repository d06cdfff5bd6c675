"""In this process, one run after the other: for a debugger. What kills a run kills the program."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dfkd_bench.engines.base import Ending, OnDone
from dfkd_bench.engines.settings import WorkerSettings
from dfkd_bench.errors import DfkdError
from dfkd_bench.results.locks import HeldError
from dfkd_bench.results.records import Record
from dfkd_bench.runs.runner import run_spec
from dfkd_bench.spec import RunSpec

if TYPE_CHECKING:
    from dfkd_bench.workbench import Workbench

__all__ = ["InlineEngine"]


class InlineEngine:
    """No processes at all.

    Args:
        bench: whose registry, store and results are used as they are.
        settings: checkpoints, and what is done again.
    """

    def __init__(self, bench: Workbench, settings: WorkerSettings) -> None:
        self._bench, self._settings = bench, settings

    def run(self, specs: Sequence[RunSpec], before: Mapping[str, Record | None], on_done: OnDone) -> None:
        """Try each spec once."""
        for spec in specs:
            on_done(spec, self._one(spec, before[spec.hash]))

    def _one(self, spec: RunSpec, before: Record | None) -> Ending:
        settings = self._settings
        try:
            if settings.again.stands(self._bench.results.read(spec.hash), before):
                return Ending("found")
            run_spec(
                spec,
                self._bench.results,
                self._bench.store,
                checkpoint_seconds=settings.checkpoint_seconds,
                retry=settings.again.failed,
                rerun_stale=settings.again.stale,
                keep_bank=settings.keep_bank,
                wait=0,
            )
        except HeldError:
            return Ending("held")
        except DfkdError as error:
            return Ending("problem", str(error))
        return Ending("record")
