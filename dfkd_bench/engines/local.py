"""On this machine: a process per run, one at a time per GPU, or as many at once as are asked for."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Mapping, Sequence

from dfkd_bench.engines.base import Ending, EngineOptions, OnDone, Relay
from dfkd_bench.engines.child import Children, run_apart
from dfkd_bench.engines.settings import WorkerSettings
from dfkd_bench.errors import DfkdError
from dfkd_bench.results.records import Record
from dfkd_bench.spec import RunSpec

__all__ = ["LocalEngine"]


class LocalEngine:
    """A crash or an out-of-memory ends one run only.

    Args:
        settings: for the runs.
        options: `jobs`.
        relay: called with what happens in the runs.
    """

    def __init__(self, settings: WorkerSettings, options: EngineOptions, relay: Relay) -> None:
        self._settings, self._relay = settings, relay
        self._slots = _slots(settings, options.jobs)

    def run(self, specs: Sequence[RunSpec], before: Mapping[str, Record | None], on_done: OnDone) -> None:
        """Try each spec once, in the order given."""
        todo, answers = queue.SimpleQueue[RunSpec](), queue.SimpleQueue[tuple[RunSpec, Ending | BaseException]]()
        for spec in specs:
            todo.put(spec)
        children = Children()

        def work(environment: Mapping[str, str]) -> None:
            while not children.ending:
                try:
                    spec = todo.get_nowait()
                except queue.Empty:
                    return
                answers.put((spec, self._try(spec, before, children, environment)))

        threads = [threading.Thread(target=work, args=(slot,), daemon=True) for slot in self._slots[: len(specs)]]
        for thread in threads:
            thread.start()
        try:
            for _ in specs:
                spec, answer = answers.get()
                if isinstance(answer, BaseException):
                    raise answer
                on_done(spec, answer)
        finally:
            children.end()
            for thread in threads:
                thread.join(timeout=10)

    def _try(
        self,
        spec: RunSpec,
        before: Mapping[str, Record | None],
        children: Children,
        environment: Mapping[str, str],
    ) -> Ending | BaseException:
        try:
            return run_apart(
                spec,
                self._settings,
                before=before[spec.hash],
                children=children,
                relay=self._relay,
                environment=environment,
            )
        except DfkdError as error:
            return Ending("problem", str(error))
        except BaseException as error:  # raised again where the engine was called
            return error


def _slots(settings: WorkerSettings, jobs: int | None) -> list[dict[str, str]]:
    """The environment of each process that may run at once."""
    if settings.device == "cuda":
        gpus = _gpus()
        return [{"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} for slot in range(jobs or len(gpus))]
    count = jobs or 1
    if count == 1 or "OMP_NUM_THREADS" in os.environ:
        return [{} for _ in range(count)]
    # Each would take all processors, and they would stand in each other's way.
    return [{"OMP_NUM_THREADS": str(max(1, _processors() // count))} for _ in range(count)]


def _processors() -> int:
    """Those that this process may use: in a job of a cluster not all that the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _gpus() -> list[str]:
    import torch

    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return named or [str(index) for index in range(max(1, torch.cuda.device_count()))]
