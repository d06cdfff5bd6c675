"""Parts of the engines that no tiny grid comes by."""

from __future__ import annotations

import collections
import errno
import fcntl
import io
import subprocess
import sys
import threading

import pytest
import torch
from e2e_kit import bench, cli, make_record, make_spec, own_cache  # noqa: F401

from dfkd_bench import DfkdError, claims
from dfkd_bench.api import Workbench
from dfkd_bench.cli.tables import update_leaderboard
from dfkd_bench.engines.local import _slots
from dfkd_bench.engines.process import Children, _Talk, leave_row, run_apart
from dfkd_bench.engines.settings import Settings


def settings_of(workbench, **changes):
    settings = Settings.of(workbench, checkpoint_seconds=60, retry=False)
    return settings.model_copy(update=changes)


def test_a_system_that_gives_no_process_is_one_sentence(tmp_path, monkeypatch):
    def none_left(*_, **__):
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", none_left)
    workbench, children = bench(tmp_path), Children()
    workbench.results.require_writable()
    with pytest.raises(DfkdError, match=r"^no worker process can be started \(Resource temp.*\): try fewer --jobs$"):
        run_apart(make_spec(), settings_of(workbench), before=None, children=children, relay=lambda event: None)
    assert not claims.held(tmp_path, make_spec().hash)


def test_a_worker_is_heard_to_its_end_though_nobody_listens(monkeypatch):
    class Gone(io.StringIO):
        def write(self, _):
            raise BrokenPipeError

    talk = object.__new__(_Talk)
    talk.last_words = collections.deque()
    monkeypatch.setattr(sys, "stderr", Gone())
    talk._read_errors(io.StringIO("one\ntwo\n"))
    assert list(talk.last_words) == ["one\n", "two\n"]


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
        claims.take(tmp_path, "a" * 16)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has what it is not to have")
def test_a_gpu_of_other_machines_need_not_be_here(tmp_path):
    with pytest.raises(DfkdError, match="no CUDA device was found"):
        Workbench.make(results=tmp_path, device="cuda")
    elsewhere = Workbench.make(results=tmp_path, device="cuda", here=False)
    assert (elsewhere.execution.device.type, elsewhere.execution.asked) == ("cpu", ("cuda", "auto"))
    grid = ("run", "--method", "noise", "--pair", "resnet8:resnet8", "--dry-run", "--results", tmp_path)
    asked = cli(*grid, "--engine", "ray", "--device", "cuda")
    assert (asked.code, "a Ray cluster, device cuda" in asked.out) == (0, True)
    record = leave_row(make_spec(), settings_of(elsewhere, device="cuda"), "killed", "Ray gave the run up")
    assert record.status == "killed"


def test_a_leaderboard_waits_for_the_one_that_is_being_written(tmp_path):
    workbench = bench(tmp_path)
    workbench.results.write(make_record())
    other = claims.take(tmp_path, "leaderboard")
    thread = threading.Thread(target=update_leaderboard, args=(workbench.results,))
    thread.start()
    thread.join(timeout=1)
    assert thread.is_alive()
    assert not (tmp_path / "leaderboard.csv").exists()
    other.release()
    thread.join(timeout=60)
    assert (tmp_path / "leaderboard.csv").exists()
