from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from support.e2e_kit import (
    bench,
    listening,
    own_cache,  # noqa: F401
    program,
    teacher_file,
)
from support.engine_kit import (
    FAULTS,
    fault_specs,
    grid_command,
    plugins_on_path,  # noqa: F401
    start,
    starts,
)

from dfkd_bench import DfkdError, api
from dfkd_bench.engines import EngineOptions, run_grid
from dfkd_bench.results import locks, progress_file
from dfkd_bench.runs.runner import run_spec

pytestmark = pytest.mark.usefixtures("plugins_on_path")


def test_four_ways_to_fail_are_rows_with_reasons_and_the_other_runs_are_done(tmp_path):
    workbench = bench(tmp_path / "results")
    planned = fault_specs(workbench, *FAULTS, "none")
    heard = []
    with listening(workbench.registry, heard.append):
        grid = run_grid(planned, workbench, options=EngineOptions(jobs=2), checkpoint_seconds=0)
    assert grid.problems == []
    assert [record.run for record in grid.records] == [spec.hash for spec in planned]
    for (status, reason), record in zip(FAULTS.values(), grid.records, strict=False):
        assert record.status == status, record
        assert record.reason.startswith(reason), record
        assert record.last_good_epoch == 1
        assert record.teacher is not None
        assert record.cost["distillation"]["images"] > 0
        left = {path.name for path in workbench.results.folder(record.run).iterdir()}
        assert "progress.json" not in left
        assert ("checkpoint.pt" in left) is (status in ("killed", "out-of-memory"))
        assert not locks.is_locked(workbench.results.path, record.run)
    assert grid.records[-1].status == "finished"
    kinds = [event.kind for event in heard if event.run == planned[-1].hash]
    assert (kinds[0], kinds[-1], kinds.count("epoch")) == ("started", "finished", 2)
    ends = {event.run: event.data["record"] for event in heard if event.kind in ("finished", "failed")}
    assert ends == {record.run: record for record in grid.records}


def test_what_was_killed_goes_on_when_it_is_retried_and_what_failed_starts_anew(tmp_path, plugins_on_path):  # noqa: F811
    workbench = bench(tmp_path / "results")
    planned = fault_specs(workbench, "killed", "raises")
    first = run_grid(planned, workbench, checkpoint_seconds=0).records
    assert [record.status for record in first] == ["killed", "failed"]
    assert run_grid(planned, workbench).records == first
    assert len(starts(plugins_on_path)) == 2
    heard = []
    with listening(workbench.registry, heard.append):
        again = run_grid(planned, workbench, retry=True, checkpoint_seconds=0).records
    assert [record.status for record in again] == ["killed", "failed"]
    epochs = {
        spec.hash: [e.data["epoch"] for e in heard if e.kind == "epoch" and e.run == spec.hash] for spec in planned
    }
    assert epochs == {planned[0].hash: [], planned[1].hash: [1]}
    assert [record.last_good_epoch for record in again] == [1, 1]


CROWD = """
import os, sys
from dfkd_bench import RunSpec
from dfkd_bench.workbench import Workbench
from dfkd_bench.engines import run_grid

results, teachers, *texts = sys.argv[1:]
children = []
for _ in range(12):
    if not (child := os.fork()):
        code = 1
        try:
            bench = Workbench.make(results=results, teachers=teachers, device="cpu", precision="fp32")
            grid = run_grid([RunSpec.model_validate_json(text) for text in texts], bench, engine="inline")
            code = sum(record is None or record.status != "finished" for record in grid.records)
        finally:
            os._exit(code)
    children.append(child)
sys.exit(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0 for child in children))
"""


def test_twelve_processes_do_a_grid_of_twelve_once(tmp_path, plugins_on_path):  # noqa: F811
    workbench = bench(tmp_path / "results")
    planned = fault_specs(workbench, "none", seeds=tuple(range(12)))
    texts = [spec.model_dump_json() for spec in planned]
    # Teachers too: nobody has trained theirs yet.
    done = program(tmp_path / "results", tmp_path / "teachers", *texts, code=CROWD, timeout=500)
    assert done.code == 0, done
    assert sorted(starts(plugins_on_path)) == sorted(spec.hash for spec in planned)
    assert [record.status for record in workbench.results.records()] == ["finished"] * 12
    assert len({record.teacher.sha256 for record in workbench.results.records()}) == 1
    assert not list(tmp_path.rglob("*.tmp"))


@pytest.mark.long
def test_twelve_commands_do_a_grid_of_twelve_once(tmp_path, plugins_on_path):  # noqa: F811
    command = grid_command(tmp_path / "results", tmp_path / "teachers", "--engine", "inline", seeds=12)
    crowd = [start(*command, "--teacher", str(teacher_file())) for _ in range(12)]
    outputs = [process.communicate(timeout=500)[0] for process in crowd]
    assert [process.returncode for process in crowd] == [0] * 12, outputs
    done = starts(plugins_on_path)
    assert len(done) == len(set(done)) == 12
    records = list(bench(tmp_path / "results").results.records())
    assert [record.status for record in records] == ["finished"] * 12
    assert all("Traceback" not in output for output in outputs)


def test_two_local_engines_share_a_grid(tmp_path, plugins_on_path):  # noqa: F811
    command = grid_command(tmp_path / "results", tmp_path / "teachers", "--engine", "local", seeds=3)
    crowd = [start(*command, "--teacher", str(teacher_file())) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in crowd]
    assert [process.returncode for process in crowd] == [0, 0], outputs
    done = starts(plugins_on_path)
    assert len(done) == len(set(done)) == 3
    assert all(output.count("finished: last epoch") + output.count("found,") >= 1 for output in outputs)


def _alive(pid):
    """Whether it runs; one that has ended and that nobody asks about (a zombie) does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def _wait_until(true, seconds=60):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.05)


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="it looks processes up in /proc")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_engine_that_is_ended_leaves_no_process_and_no_row(tmp_path, plugins_on_path, how):  # noqa: F811
    results = bench(tmp_path / "results").results
    command = grid_command(results.path, tmp_path / "teachers", "--engine", "local", "--set", "synthesizer.seconds=30")
    process = start(*command, "--teacher", str(teacher_file()))
    _wait_until(lambda: starts(plugins_on_path))
    (run,) = starts(plugins_on_path)
    child = int(plugins_on_path.read_text(encoding="utf-8").split()[1])
    assert child != process.pid
    assert locks.is_locked(results.path, run)
    process.send_signal(how)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == (130 if how == signal.SIGINT else -how), output
    assert ("interrupted; the same command continues" in output) == (how == signal.SIGINT)
    _wait_until(lambda: not locks.is_locked(results.path, run))
    _wait_until(lambda: not _alive(child))
    assert results.read(run) is None
    assert progress_file.read(results, run).pid == child


def test_a_run_that_another_process_holds_is_put_off_and_its_record_is_read(tmp_path):
    workbench = bench(tmp_path / "results")
    first, second = fault_specs(workbench, "none", seeds=(0, 1))
    other = bench(tmp_path / "theirs")
    theirs = run_spec(first, other.results, other.store)
    workbench.results.require_writable()
    lock = locks.acquire(workbench.results.path, first.hash)
    order = []

    def other_process():
        _wait_until(lambda: workbench.results.read(second.hash))  # this one is not held up
        order.append("second")
        workbench.results.write(theirs)
        lock.release()

    other = threading.Thread(target=other_process)
    other.start()
    records = api.run_all(workbench, [first, second], engine="inline")
    other.join()
    assert order == ["second"]
    assert records[0] == theirs


def test_a_problem_is_told_once_and_the_other_runs_are_done(tmp_path):
    workbench = bench(tmp_path / "results")
    (good,) = fault_specs(workbench, "none")
    (lost,) = fault_specs(workbench, "none", seeds=(5,))
    lost = lost.model_copy(update={"teacher": lost.teacher.model_copy(update={"recipe": None, "sha256": "f" * 64})})
    other = lost.model_copy(update={"seed": 6})
    grid = run_grid([lost, good, other], workbench)
    assert [None if record is None else record.status for record in grid.records] == [None, "finished", None]
    assert len(grid.problems) == 1
    assert grid.problems[0].startswith("no teacher with weights ffffffffffffffff")
    assert workbench.results.read(lost.hash) is None
    with pytest.raises(DfkdError, match=r"^2 of 3 runs have no record: no teacher with weights"):
        api.run_all(workbench, [lost, good, other], engine="inline")
