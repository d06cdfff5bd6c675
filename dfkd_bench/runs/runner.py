"""One spec -> one record: found, or made by one process at a time, from a checkpoint if there is one."""

from __future__ import annotations

import threading
import traceback
from collections.abc import Mapping
from typing import Any

from dfkd_bench.environment import arithmetic, describe
from dfkd_bench.errors import DataFreeViolationError, DfkdError
from dfkd_bench.files import file_hash, remove, remove_leftovers, replacing
from dfkd_bench.hooks.events import EventKind, RunEvent
from dfkd_bench.results.again import Again
from dfkd_bench.results.locks import locked
from dfkd_bench.results.progress_file import Progress, ProgressFile, read
from dfkd_bench.results.records import Record, Results, Status
from dfkd_bench.resume.checkpoint import Checkpoint, run_identity
from dfkd_bench.resume.code_hash import source_hashes
from dfkd_bench.resume.outcome import DivergedError, of_exception
from dfkd_bench.runs.gpu_sharing import SHARED, on_gpu
from dfkd_bench.runs.loop import Run
from dfkd_bench.runs.stage_set import priors_of
from dfkd_bench.spec import RunSpec
from dfkd_bench.stages.seeds import global_stream, stream_seed
from dfkd_bench.teachers.store import TeacherStore
from dfkd_bench.texts import encodable

__all__ = ["DivergedError", "run_spec"]


# Of this process, all of which is sealed while a stage is at work.
_ONE_AT_A_TIME = threading.RLock()


def run_spec(
    spec: RunSpec,
    results: Results,
    store: TeacherStore,
    *,
    checkpoint_seconds: float = 60.0,
    retry: bool = False,
    rerun_stale: bool = False,
    wait: float = -1,
    keep_bank: bool = False,
) -> Record:
    """The record of a spec: found in the results folder, or run now and written there.

    A run that was killed resumes from its checkpoint. One that fails or diverges is a record too, with its reason.
    While it is running no other process does the same run, and this process does no other.

    Args:
        spec: what to run.
        results: where its folder is.
        store: where its teacher is, or is trained to.
        checkpoint_seconds: least time between checkpoints.
        retry: run again what has a record but did not finish.
        rerun_stale: run again what other source of its plugins made than is there now, from the start.
        wait: seconds to wait for another process that does this run; negative for as long as it takes.
        keep_bank: leave the final images and the student's weights beside the record.

    Raises:
        DfkdError: something that the user can fix (data, teacher, folders) stands in the way.
        HeldError: another process does this run and has not ended after `wait` seconds.
    """
    before, again = results.read(spec.hash), Again(failed=retry, stale=rerun_stale)
    if before is not None and again.stands(before, before):
        return before
    results.require_writable()
    with locked(results.path, spec.hash, wait=wait), _ONE_AT_A_TIME:
        found = results.read(spec.hash)
        # A record that another process wrote while this one waited stands, whatever it says.
        if found is not None and again.stands(found, before):
            return found
        return _run_claimed(spec, results, store, checkpoint_seconds, found, keep_bank, rerun_stale)


def _run_claimed(
    spec: RunSpec,
    results: Results,
    store: TeacherStore,
    checkpoint_seconds: float,
    found: Record | None,
    keep_bank: bool,
    rerun_stale: bool,
) -> Record:
    folder, registry, execution = results.folder(spec.hash), store.registry, store.execution
    folder.mkdir(exist_ok=True)
    remove_leftovers(folder)
    if found is not None:
        results.set_aside(found)
    environment = describe(execution, registry).model_copy(update={"code": source_hashes(spec, registry)})
    checkpoint = Checkpoint(
        folder / "checkpoint.pt", run_identity(spec, environment), checkpoint_seconds, anew_if_edited=rerun_stale
    )
    begin = Progress.begin(spec, priors_of(spec, registry), environment)
    before = (read(results, spec.hash) or found) if checkpoint.path.exists() else None
    file = ProgressFile(results, begin.knowing(before))
    file.write()

    def emit(kind: EventKind, data: Mapping[str, Any]) -> None:
        file.hear(kind, data)
        registry.emit(RunEvent(kind, spec.hash, spec.title, data))

    emit("started", {"spec": spec.model_dump(mode="json"), "folder": str(folder)})
    status: Status = "finished"
    run, reason, trace, picture = None, None, None, None
    try:
        with arithmetic(execution), on_gpu(execution.device) as shared:
            teacher = store.obtain(spec.teacher, spec.pair.teacher, spec.dataset)
            with global_stream(stream_seed(spec.seed, "global"), execution.device):
                run = Run(spec, teacher, registry, execution, emit, file)
                run.to_the_end(checkpoint)
            if shared():
                file.remark(SHARED)
    except DataFreeViolationError as error:
        status, reason, trace = "failed", encodable(str(error)), traceback.format_exc()
    except DfkdError:
        if not checkpoint.path.exists():
            file.remove()  # nothing of this start is left to resume from
        raise
    except KeyboardInterrupt:
        raise
    except (Exception, SystemExit) as error:  # a stage is a stranger's code: whatever it raises is this run's row
        status, reason = of_exception(error)
        trace = None if status == "diverged" else traceback.format_exc()
    if run is not None:
        file.note(**run.so_far())
        if keep_bank and status == "finished":
            run.keep(folder)
        if status != "out-of-memory":
            picture, trace = run.picture(folder / "images.png", trace)
    # Let go of all that the run holds: the rest needs some memory.
    run = None
    record = file.now.record(status, reason, picture, None if picture is None else file_hash(folder / picture))
    _leave(record, results, trace, checkpoint)
    file.remove()
    emit("finished" if status == "finished" else "failed", {"reason": reason, "record": record})
    return record


def _leave(record: Record, results: Results, trace: str | None, checkpoint: Checkpoint) -> None:
    path = results.folder(record.run) / "traceback.txt"
    remove(path)
    if trace is not None:
        with replacing(path) as temporary:
            temporary.write_text(encodable(trace), encoding="utf-8")
    if record.status in _ANEW:
        checkpoint.remove()  # first: beside a record that failed, a checkpoint is a retry's
    results.write(record)
    if record.status == "finished":
        checkpoint.remove()


# From its checkpoint such a run would come to the same end: a retry starts anew. After the others it resumes.
_ANEW: tuple[Status, ...] = ("failed", "diverged")
