"""Parts of the engines that no tiny grid comes by."""

from __future__ import annotations

import collections
import errno
import fcntl
import io
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
import torch
from support.e2e_kit import bench, cli, make_record, make_spec, own_cache  # noqa: F401

from dfkd_bench import DfkdError
from dfkd_bench.engines.child import Children, _Pipe, run_apart
from dfkd_bench.engines.local import _slots
from dfkd_bench.engines.lost_run import write_lost_record
from dfkd_bench.engines.settings import WorkerSettings
from dfkd_bench.leaderboard.update import update_leaderboard
from dfkd_bench.results import locks
from dfkd_bench.results.again import Again
from dfkd_bench.workbench import Workbench


def settings_of(workbench, **changes):
    settings = WorkerSettings.of(workbench, checkpoint_seconds=60, again=Again())
    return settings.model_copy(update=changes)


def test_a_system_that_gives_no_process_is_one_sentence(tmp_path, monkeypatch):
    def none_left(*_, **__):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", none_left)
    workbench, children = bench(tmp_path), Children()
    workbench.results.require_writable()
    with pytest.raises(DfkdError, match=r"^no worker process can be started \(Resource temp.*\): try fewer --jobs$"):
        run_apart(make_spec(), settings_of(workbench), before=None, children=children, relay=lambda event: None)
    assert not locks.is_locked(tmp_path, make_spec().hash)


def test_a_worker_is_heard_to_its_end_though_nobody_listens(monkeypatch):
    class Gone(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    talk = object.__new__(_Pipe)
    talk.stderr_tail = collections.deque()
    monkeypatch.setattr(sys, "stderr", Gone())
    talk._read_errors(io.StringIO("one\ntwo\n"))
    assert list(talk.stderr_tail) == ["one\n", "two\n"]


def test_jobs_share_the_processors_that_this_process_may_use(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    assert _slots(settings_of(bench(tmp_path), device="cpu"), 3) == [{"OMP_NUM_THREADS": "2"}] * 3


def test_a_file_system_without_locks_is_one_sentence(tmp_path, monkeypatch):
    """Nothing less than a lock is put in its place: it would outlive a process that is killed."""

    def missing(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", missing)
    with pytest.raises(DfkdError, match=r"^cannot lock .* \(Function not implemented\): choose another results folder"):
        locks.acquire(tmp_path, "a" * 16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what it is not to have")
def test_a_gpu_of_other_machines_need_not_be_here(tmp_path):
    with pytest.raises(DfkdError, match="no CUDA device was found"):
        Workbench.make(results=tmp_path, device="cuda")
    elsewhere = Workbench.make(results=tmp_path, device="cuda", here=False)
    assert (elsewhere.execution.device.type, elsewhere.execution.asked) == ("cpu", ("cuda", "auto"))
    grid = ("run", "--method", "noise", "--pair", "resnet8:resnet8", "--dry-run", "--results", tmp_path)
    asked = cli(*grid, "--engine", "ray", "--device", "cuda")
    assert (asked.code, "a Ray cluster, device cuda" in asked.out) == (0, True)
    record = write_lost_record(make_spec(), settings_of(elsewhere, device="cuda"), "killed", "Ray gave the run up")
    assert record.status == "killed"


def test_a_leaderboard_waits_for_the_one_that_is_being_written(tmp_path):
    workbench = bench(tmp_path)
    workbench.results.write(make_record())
    other = locks.acquire(tmp_path, "leaderboard")
    thread = threading.Thread(target=update_leaderboard, args=(workbench.results, pytest.fail))
    thread.start()
    thread.join(timeout=1)
    assert thread.is_alive()
    assert not (tmp_path / "leaderboard.csv").exists()
    other.release()
    thread.join(timeout=60)
    assert (tmp_path / "leaderboard.csv").exists()


def test_a_record_that_another_process_made_is_found_and_not_made(tmp_path):
    workbench = bench(tmp_path)
    workbench.results.write(make_record())
    given = {"before": None, "children": Children(), "relay": lambda event: None}
    assert run_apart(make_spec(), settings_of(workbench), **given).kind == "found"


LEAVES_A_CHILD = """
import os, sys, time
from pathlib import Path
from dfkd_bench.results import locks
lock = locks.acquire(Path(sys.argv[1]), "a" * 16)
print('{"ready": true}', flush=True)
if os.fork() == 0:
    time.sleep(120)
    os._exit(0)
os._exit(7)
"""


def test_a_child_that_a_worker_left_behind_holds_nobody_up(tmp_path):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    command = [sys.executable, "-c", LEAVES_A_CHILD, str(tmp_path)]
    worker = subprocess.Popen(command, text=True, start_new_session=True, **pipes)
    try:
        talk = _Pipe(worker, lambda event: None, bench(tmp_path).results)
        assert talk.listen(until="ready")
        start = time.monotonic()
        assert not talk.listen(until="end")  # though the pipe stays open
        while locks.is_locked(tmp_path, "a" * 16):  # until the child has let go of it
            assert time.monotonic() - start < 20
    finally:
        os.killpg(worker.pid, signal.SIGKILL)
        worker.wait()
        talk.close()
    assert talk.status == 7
