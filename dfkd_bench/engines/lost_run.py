"""The record of a run whose process ended without one."""

from __future__ import annotations

import signal

from dfkd_bench.engines.settings import WorkerSettings
from dfkd_bench.engines.worker import NO_MEMORY
from dfkd_bench.errors import DfkdError
from dfkd_bench.files import replacing
from dfkd_bench.results import progress_file
from dfkd_bench.results.records import Record, Results, Status
from dfkd_bench.spec import RunSpec

__all__ = ["cause_of_death", "write_lost_record"]


def cause_of_death(status: int) -> tuple[Status, str]:
    """The status and reason of a run whose process ended with this exit status and left no record."""
    if status == NO_MEMORY:
        return "out-of-memory", "MemoryError: not even the record could be written"
    if status >= 0:
        return "killed", f"the process ended with exit status {status} and left no record"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    perhaps = ", perhaps for memory" if name == "SIGKILL" else ""
    return "killed", f"the process was killed by {name}{perhaps}"


def write_lost_record(
    spec: RunSpec, settings: WorkerSettings, status: Status, reason: str, stderr_tail: str = ""
) -> Record:
    """Write the record of a run whose process can write none. The caller holds the run.

    Raises:
        DfkdError: it cannot be written.
    """
    results = Results(settings.results)
    results.require_writable()
    found = progress_file.read(results, spec.hash)
    if found is None:
        found = _nothing_known(spec, settings)
    record, before = found.record(status, reason), results.read(spec.hash)
    if before is not None:
        results.set_aside(before)
    results.write(record)
    folder = results.folder(spec.hash)
    if stderr_tail:
        with replacing(folder / "traceback.txt") as temporary:
            temporary.write_text(stderr_tail, encoding="utf-8")
    (folder / "progress.json").unlink(missing_ok=True)
    return record


def _nothing_known(spec: RunSpec, settings: WorkerSettings) -> progress_file.Progress:
    from dfkd_bench.environment import describe, execution
    from dfkd_bench.hooks.registry import default_registry
    from dfkd_bench.runs.stage_set import priors_of

    registry = default_registry()
    try:
        priors = priors_of(spec, registry)
    except DfkdError:
        priors = {}
    where = execution(
        settings.device,  # type: ignore[arg-type]
        settings.precision,  # type: ignore[arg-type]
        settings.data_root,
        here=False,
        deterministic=settings.deterministic,
        compile=settings.compile,
        graphs=settings.graphs,
    )
    return progress_file.Progress.begin(spec, priors, describe(where, registry, computing=False))
