"""On a Ray cluster: each run is a task that starts the same process as the local engine.

So a crash is a row, wherever it happens, and only a lost node is Ray's to retry: the run resumes elsewhere from the
results folder, which all nodes must see under the same path.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any

from dfkd_bench.engines.base import Ending, EngineOptions, OnDone, Relay
from dfkd_bench.engines.child import Children, run_apart
from dfkd_bench.engines.lost_run import write_lost_record
from dfkd_bench.engines.settings import WorkerSettings
from dfkd_bench.errors import DfkdError, first_line
from dfkd_bench.hooks.events import EventKind, RunEvent
from dfkd_bench.results import locks
from dfkd_bench.results.records import Record, Results
from dfkd_bench.spec import RunSpec

__all__ = ["RayEngine"]

# How many nodes may be lost under one run.
_MAX_RETRIES = 20


def _task(spec: str, settings: str, before: str | None) -> tuple[str, str]:
    """One run, on a node of the cluster. Plain text in, plain text out."""
    try:
        ending = run_apart(
            RunSpec.model_validate_json(spec),
            WorkerSettings.model_validate_json(settings),
            before=None if before is None else Record.model_validate_json(before),
            children=Children(),
            relay=lambda event: None,
        )
    except DfkdError as error:
        return "problem", str(error)
    return ending.kind, ending.sentence


def _knock(address: str | None) -> None:
    """Ray tries for minutes to reach a cluster that is not there."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


class RayEngine:
    """Many machines.

    Args:
        settings: for the runs.
        options: `address`, `gpus_per_run`, `cpus_per_run`.
        relay: called when runs end; how far they are is in the results folder.

    Raises:
        DfkdError: Ray is not installed, or there is no cluster at the address.
    """

    def __init__(self, settings: WorkerSettings, options: EngineOptions, relay: Relay) -> None:
        try:
            import ray
        except ImportError as error:
            raise DfkdError("the ray engine needs Ray: pip install dfkd-bench[ray]") from error
        self._ray: Any = ray
        self._settings, self._relay = settings, relay
        self._results = Results(settings.results)
        if not ray.is_initialized():
            try:
                _knock(options.address)
                ray.init(address=options.address, log_to_driver=False, logging_level="warning")
            except (OSError, ValueError, RuntimeError) as error:
                raise DfkdError(
                    f"there is no Ray cluster at {options.address} ({first_line(error)}): start one with ray start"
                ) from error
        gpus = options.gpus_per_run
        if gpus is None:
            has_gpus = ray.cluster_resources().get("GPU", 0) > 0
            gpus = 1 if settings.device == "cuda" or (settings.device == "auto" and has_gpus) else 0
        if gpus == 0 and settings.device == "auto":
            self._settings = settings.model_copy(update={"device": "cpu"})  # a GPU that is there is not this run's
        self._remote: Any = ray.remote(
            num_cpus=options.cpus_per_run, num_gpus=gpus, max_retries=_MAX_RETRIES, max_calls=0
        )(_task)

    def run(self, specs: Sequence[RunSpec], before: Mapping[str, Record | None], on_done: OnDone) -> None:
        """Try each spec once."""
        settings = self._settings.model_dump_json()
        pending: dict[Any, RunSpec] = {}
        for spec in specs:
            found = before[spec.hash]
            text = None if found is None else found.model_dump_json()
            pending[self._remote.remote(spec.model_dump_json(), settings, text)] = spec
        try:
            while pending:
                (ref, *_), _ = self._ray.wait(list(pending), num_returns=1)
                spec = pending.pop(ref)
                on_done(spec, self._ending(ref, spec, before[spec.hash]))
        finally:
            for ref in pending:
                self._ray.cancel(ref, force=True)

    def _ending(self, ref: Any, spec: RunSpec, before: Record | None) -> Ending:
        try:
            kind, sentence = self._ray.get(ref)
        except self._ray.exceptions.RayError as error:
            return self._lost(spec, before, error)
        ending = Ending(kind, sentence)
        if ending.kind == "record":
            self._tell(spec)
        return ending

    def _tell(self, spec: RunSpec) -> None:
        record = self._results.read(spec.hash)
        if record is not None:
            kind: EventKind = "finished" if record.status == "finished" else "failed"
            self._relay(RunEvent(kind, spec.hash, spec.title, {"reason": record.reason, "record": record}))

    def _lost(self, spec: RunSpec, before: Record | None, error: Exception) -> Ending:
        """Ray gave it up: that is a row too, unless somebody else does the run."""
        lock = locks.acquire(self._results.path, spec.hash, wait=1)
        if lock is None:
            return Ending("held")
        try:
            if not self._settings.again.stands(self._results.read(spec.hash), before):
                write_lost_record(spec, self._settings, "killed", f"Ray gave the run up: {first_line(error)}")
        finally:
            lock.release()
        self._tell(spec)
        return Ending("record")
