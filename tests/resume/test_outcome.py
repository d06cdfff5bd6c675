from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest
import torch
from support.e2e_kit import (
    bench,
    listening,
    make_record,
    make_spec,
    own_cache,  # noqa: F401
    specs,
)

from dfkd_bench import DfkdError
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.leaderboard.build import build_table
from dfkd_bench.results import code, locks
from dfkd_bench.resume import code_hash
from dfkd_bench.resume.outcome import DivergedError, of_exception
from dfkd_bench.runs.runner import run_spec
from dfkd_bench.workbench import Workbench

CPU_ALLOCATOR = "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
CUDNN_9 = "cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"
CUBLAS = "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (DivergedError("a loss is nan"), ("diverged", "a loss is nan")),
        (MemoryError(), ("out-of-memory", "MemoryError")),
        (torch.OutOfMemoryError("CUDA out of\nmemory"), ("out-of-memory", "OutOfMemoryError: CUDA out of memory")),
        (RuntimeError(CPU_ALLOCATOR), ("out-of-memory", f"RuntimeError: {CPU_ALLOCATOR}")),
        (RuntimeError("CUDA error: out of memory"), ("out-of-memory", "RuntimeError: CUDA error: out of memory")),
        (RuntimeError("CUDNN_STATUS_ALLOC_FAILED"), ("out-of-memory", "RuntimeError: CUDNN_STATUS_ALLOC_FAILED")),
        (RuntimeError(CUDNN_9), ("out-of-memory", f"RuntimeError: {CUDNN_9}")),
        (RuntimeError(CUBLAS), ("out-of-memory", f"RuntimeError: {CUBLAS}")),
        (
            OSError(errno.ENOMEM, "Cannot allocate memory"),
            ("out-of-memory", f"OSError: [Errno {errno.ENOMEM}] Cannot allocate memory"),
        ),
        (RuntimeError("on purpose"), ("failed", "RuntimeError: on purpose")),
        (SystemExit(3), ("failed", "SystemExit: 3")),
    ],
)
def test_an_exception_means_a_status_and_a_reason(error, expected):
    assert of_exception(error) == expected


def test_a_run_that_fails_before_it_has_a_teacher_is_a_row_in_the_leaderboard(tmp_path, monkeypatch):
    workbench = bench(tmp_path)
    first, second = specs(workbench, "noise", seeds=(0, 1))
    monkeypatch.setattr("dfkd_bench.teachers.store.TeacherStore.obtain", _no_memory)
    record = run_spec(first, workbench.results, workbench.store)
    assert (record.status, record.teacher, record.test_split) == ("out-of-memory", None, None)
    assert record.priors == {"synthesizer": "none", "augmenter": "none", "filter": "none", "distiller": "none"}
    monkeypatch.undo()
    run_spec(second, workbench.results, workbench.store)
    # The other run asked for the same teacher, so it is known which row this one belongs to.
    ((_, row),) = build_table(workbench.results.records()).rows()
    assert (row.state, row.statistics.n) == ("partly failed", 1)
    assert row.reasons == ("seed 0: out-of-memory, last good epoch 0: MemoryError",)


def _no_memory(*_):
    raise MemoryError


def test_the_leaderboard_says_the_last_good_epoch_of_what_failed():
    point = make_record().curve()[0]
    curve = tuple(point.model_copy(update={"epoch": number}) for number in (1, 2, 3))
    failed = make_record(make_spec(seed=1), None, curve=curve)
    assert failed.last_good_epoch == 3
    assert make_record(accuracy=None).last_good_epoch == 0
    ((_, row),) = build_table([make_record(), failed]).rows()
    assert row.reasons == ("seed 1: failed, last good epoch 3: RuntimeError: on purpose",)


def test_a_checkpoint_of_edited_code_is_refused_with_a_reason(tmp_path, monkeypatch):
    workbench = bench(tmp_path)
    (spec,) = specs(workbench, "noise")

    def stop(event):
        if event.kind == "epoch":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), listening(workbench.registry, stop):
        run_spec(spec, workbench.results, workbench.store, checkpoint_seconds=0)
    monkeypatch.setattr(code_hash, "package_hash", lambda name: "f" * 16 if name == "dfkd_baselines" else "0" * 16)
    with pytest.raises(
        DfkdError,
        match=r"was written with the code of dfkd_baselines [0-9a-f]{16}, now it is f{16}: go back to what",
    ):
        run_spec(spec, workbench.results, workbench.store)
    assert (workbench.results.folder(spec.hash) / "checkpoint.pt").exists()


def test_the_hash_of_a_packages_source_is_of_its_python_files(tmp_path, monkeypatch):
    package = tmp_path / "edited"
    (package / "sub").mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "sub" / "stage.py").write_text("x = 1", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    first = code.package_hash.__wrapped__("edited")
    (package / "notes.txt").write_text("no code", encoding="utf-8")
    assert code.package_hash.__wrapped__("edited") == first
    (package / "sub" / "stage.py").write_text("x = 2", encoding="utf-8")
    assert code.package_hash.__wrapped__("edited") not in (first, None)
    assert "edited" not in sys.modules


@pytest.mark.parametrize(
    ("edited", "counts"),
    [
        ("runs/loop.py", True),
        ("stages/bank.py", True),
        ("blocks/kd.py", True),
        ("models/wrn.py", True),
        ("teachers/store.py", True),
        ("evaluation.py", True),
        ("resume/checkpoint.py", True),
        ("resume/outcome.py", True),
        ("results/status.py", False),
        ("planning/grid_file.py", False),
        ("engines/local.py", False),
        ("leaderboard/build.py", False),
        ("cli/run.py", False),
        ("contract/checks.py", False),
        ("errors.py", False),
    ],
)
def test_of_the_core_only_what_a_result_depends_on_is_hashed(monkeypatch, edited, counts):
    read, hash_of = Path.read_bytes, code.package_hash.__wrapped__
    before = hash_of("dfkd_bench")
    monkeypatch.setattr(Path, "read_bytes", lambda self: read(self) + b"#" * self.as_posix().endswith(f"/{edited}"))
    assert (hash_of("dfkd_bench") != before) == counts


def test_the_source_of_a_run_is_the_cores_and_its_stages():
    workbench = Workbench.make(device="cpu", precision="fp32")
    (spec,) = specs(workbench, "cmi")
    assert set(code_hash.source_hashes(spec, workbench.registry)) == {"dfkd_bench", "dfkd_baselines"}


def test_a_lock_is_one_processs_and_ends_with_it(tmp_path):
    first = locks.acquire(tmp_path, "a")
    assert locks.is_locked(tmp_path, "a")
    assert locks.acquire(tmp_path, "a") is None
    assert not locks.is_locked(tmp_path, "b")
    assert locks.acquire(tmp_path, "b") is not None
    with (
        pytest.raises(locks.HeldError, match="run a is being done by another process"),
        locks.locked(tmp_path, "a", wait=0),
    ):
        pass
    first.release()
    assert not locks.is_locked(tmp_path, "a")
    with locks.locked(tmp_path, "a", wait=0):
        assert locks.is_locked(tmp_path, "a")


def test_a_folder_without_room_for_locks_is_one_sentence(tmp_path):
    (tmp_path / ".locks").write_text("in the way", encoding="utf-8")
    with pytest.raises(DfkdError, match=r"^cannot lock .*: choose another results folder or fix its permissions$"):
        locks.acquire(tmp_path, "a")


def test_a_relayed_event_is_told_to_listeners_only():
    registry, heard, installed = Registry([]), [], []
    from dfkd_bench import RunEvent, hookimpl
    from dfkd_bench.hooks.registry import PluginRow

    class Installed:
        @hookimpl
        def dfkd_run_event(self, event):
            installed.append(event)

    registry.add(Installed(), PluginRow("p", "p", "1"))
    with listening(registry, heard.append):
        registry.emit(RunEvent("started", "r", "t"), relayed=True)
        registry.emit(RunEvent("phase", "r", "t"))
    assert [event.kind for event in heard] == ["started", "phase"]
    assert [event.kind for event in installed] == ["phase"]
