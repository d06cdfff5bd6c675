from __future__ import annotations

from datetime import timedelta

import pytest
from support.e2e_kit import (
    bench,
    cli,
    listening,
    make_record,
    make_spec,
    own_cache,  # noqa: F401
    program,
    specs,
)

from dfkd_bench import api
from dfkd_bench.results import locks, progress_file, status
from dfkd_bench.results.records import Results
from dfkd_bench.runs.runner import run_spec


def broken_off(workbench, spec, kind, **data):
    """Break a run off at its first event of a kind with such data."""

    def stop(event):
        if event.kind == kind and data.items() <= event.data.items():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), listening(workbench.registry, stop):
        run_spec(spec, workbench.results, workbench.store, checkpoint_seconds=0)


def test_every_state_is_told_apart(tmp_path):
    workbench = bench(tmp_path)
    done, running, failed, interrupted, waiting = planned = specs(workbench, "noise", seeds=(0, 1, 2, 3, 4))
    run_spec(done, workbench.results, workbench.store)
    broken_off(workbench, running, "epoch")
    broken_off(workbench, interrupted, "phase")
    workbench.results.write(make_record(failed, None))
    lock = locks.acquire(tmp_path, running.hash)
    states = {state.run: state for state in status.run_states(tmp_path, planned)}
    names = [states[spec.hash].state for spec in planned]
    assert names == ["done", "running", "failed", "interrupted", "waiting"]
    assert [state.run for state in status.run_states(tmp_path, planned)] == [spec.hash for spec in planned]
    at = states[running.hash]
    assert at.percent == pytest.approx(100 * at.progress.done / 4, abs=13)
    assert at.progress.done == 2
    assert [point.epoch for point in at.progress.curve] == [1]
    assert at.seconds_left > 0
    assert (states[failed.hash].reason, states[failed.hash].status) == ("RuntimeError: on purpose", "failed")
    assert {state.run: state.state for state in status.run_states(Results(tmp_path))} == {
        spec.hash: state for spec, state in zip(planned[:4], names, strict=False)
    }
    shown = cli("status", "--results", tmp_path)
    assert shown.code == 0
    assert "4 runs: 1 done, 1 running, 1 failed, 1 interrupted, 0 waiting" in shown.out
    assert f"epoch 1 of 2, accuracy {at.progress.curve[0].accuracy:.2f} %" in shown.out
    assert "failed after epoch 0: RuntimeError: on purpose" in shown.out
    lock.release()
    assert status.run_states(tmp_path, [running])[0].state == "interrupted"


def test_what_a_grid_means_to_do_is_waiting_until_it_is_done(tmp_path):
    workbench = bench(tmp_path)
    planned, seen = specs(workbench, "noise", seeds=(0, 1)), []

    def look(event):
        if event.run == planned[0].hash:
            seen.append([state.state for state in status.run_states(tmp_path)])

    with listening(workbench.registry, look):
        api.run_all(workbench, planned, engine="inline")
    assert seen[0] == ["running", "waiting"]
    assert [state.state for state in status.run_states(tmp_path)] == ["done", "done"]
    assert list((tmp_path / ".plans").iterdir()) == []


def test_a_run_that_is_retried_is_running_and_then_done(tmp_path):
    workbench = bench(tmp_path)
    (spec,) = specs(workbench, "noise")
    workbench.results.write(make_record(spec, None))
    seen = []
    with listening(workbench.registry, lambda event: seen.append(status.run_states(tmp_path)[0].state)):
        run_spec(spec, workbench.results, workbench.store, retry=True)
    assert set(seen[:-1]) == {"running"}
    assert status.run_states(tmp_path)[0].state == "done"


def test_the_progress_file_of_a_run_that_was_resumed_has_its_curve_from_the_start(tmp_path):
    workbench = bench(tmp_path)
    (spec,) = specs(workbench, "noise", "schedule.epochs=4")
    broken_off(workbench, spec, "phase", round=2)
    seen = []

    def look(event):
        if event.kind == "phase":
            seen.append(progress_file.read(workbench.results, spec.hash))

    with listening(workbench.registry, look):
        run_spec(spec, workbench.results, workbench.store)
    assert [point.epoch for point in seen[0].curve] == [1]
    assert (seen[0].resumed_at, seen[0].done) == (3, 3)
    assert not (workbench.results.folder(spec.hash) / "progress.json").exists()


def test_a_word_in_a_records_text_is_not_its_status(tmp_path):
    spec = make_spec(method='a\n "status": "finished"')
    Results(tmp_path).write(make_record(spec, None, reason='\n "status": "finished"'))
    assert status.run_states(tmp_path)[0].state == "failed"


def test_status_imports_no_torch_and_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    Results(tmp_path).write(make_record(accuracy=None))
    code = (
        "import atexit, os, sys\n"
        "atexit.register(lambda: os._exit(77) if 'torch' in sys.modules else None)\n"
        "from dfkd_bench.cli import main; main()"
    )
    assert program("status", "--results", tmp_path, code=code).code == 0
    assert "there is no results folder" in cli("status", "--results", tmp_path / "none").sentence()


def test_with_a_grid_file_what_nobody_began_is_waiting_and_other_runs_are_left_out(tmp_path):
    grid = tmp_path / "grid.toml"
    grid.write_text('pairs = ["resnet8:resnet8"]\nmethods = ["noise"]\nseeds = 2\n', encoding="utf-8")
    results = Results(tmp_path / "results")
    planned = api.plan_grid(bench(results.path), grid)
    results.write(make_record(planned[0].spec))
    results.write(make_record())
    assert cli("status", "--results", results.path).out.startswith("2 runs: 2 done")
    told = cli("status", "--results", results.path, "--grid", grid)
    assert told.out.splitlines()[0] == "2 runs: 1 done, 0 running, 0 failed, 0 interrupted, 1 waiting"


def test_the_list_of_runs_says_what_became_of_each(tmp_path):
    command = ("run", "--method", "noise", "--pair", "resnet8:resnet8", "--seeds", "3", "--dry-run")
    places = ("--results", tmp_path, "--device", "cpu")
    (first, second, _) = api.plan(bench(tmp_path), ["noise"], ["resnet8:resnet8"], seeds=range(3))
    Results(tmp_path).write(make_record(first))
    Results(tmp_path).write(make_record(second, accuracy=None))
    lines = [line.split() for line in cli(*command, *places).out.splitlines() if line.startswith("  ")]
    assert [line[1] for line in lines] == ["done", "failed", "to"]
    lines = [line.split() for line in cli(*command, *places, "--retry", "failed").out.splitlines() if line[:2] == "  "]
    assert [line[1] for line in lines] == ["done", "to", "to"]


def test_the_time_left_goes_by_the_pace_since_the_run_itself_began():
    """Not since its teacher was trained; and a long warm-up knows its part."""
    record = make_record()
    at = progress_file.Progress.begin(make_spec(), record.priors, record.environment)
    hours = {"started": at.updated - timedelta(hours=10), "going_since": at.updated - timedelta(hours=1)}
    at = at.model_copy(update={**hours, "segments": 100, "part": 0.25, "phase_done": 1, "phase_total": 2})
    assert status._seconds_left(at) == pytest.approx(3600 / 0.25 * 99.75)
    later = at.model_copy(update={"done": 40, "part": 0.0, "resumed_at": 20.5})
    assert status._seconds_left(later) == pytest.approx(3600 / 19.75 * 59.75)
    assert status._seconds_left(at.model_copy(update={"going_since": None})) is None


def test_a_long_warm_up_knows_its_part(tmp_path):
    workbench = bench(tmp_path)
    (spec,) = specs(workbench, "noise", "schedule.warmup_rounds=0", "schedule.initial_images=24")
    broken_off(workbench, spec, "phase", round=2)
    seen = []
    with listening(workbench.registry, lambda event: seen.append(progress_file.read(workbench.results, spec.hash))):
        run_spec(spec, workbench.results, workbench.store, checkpoint_seconds=0)
    going = next(at for at in seen if at is not None and at.part)
    assert (going.done, going.part, going.resumed_at) == (0, 16 / 24, 16 / 24)
    assert going.going_since > going.started
