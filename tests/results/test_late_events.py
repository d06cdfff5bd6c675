"""The state of a run that has ended is what its record says."""

from __future__ import annotations

import errno
from datetime import timedelta
from pathlib import Path

import pytest
from support.e2e_kit import bench, listening, make_record, own_cache, specs  # noqa: F401
from support.faulty_stages import faulty

from dfkd_bench.engines import run_grid
from dfkd_bench.results import locks, progress_file
from dfkd_bench.results.status import run_states
from dfkd_bench.runs.runner import run_spec


def test_a_failed_run_whose_last_event_comes_late_is_failed(tmp_path, monkeypatch):
    monkeypatch.setattr(progress_file, "_SECONDS", 0.0)  # as after five seconds without an event
    workbench, spec = faulty(tmp_path, "synthesizer.fault=raises")
    assert run_spec(spec, workbench.results, workbench.store).status == "failed"
    assert not (workbench.results.folder(spec.hash) / "progress.json").exists()
    assert [state.state for state in run_states(workbench.results)] == ["failed"]


@pytest.mark.parametrize(("later", "state"), [(0, "failed"), (60, "interrupted"), (-3600, "interrupted")])
def test_a_file_of_the_same_start_does_not_speak_against_the_record(tmp_path, later, state):
    """Also where the clock was put back between a failure and its retry."""
    workbench, spec = faulty(tmp_path)
    record = make_record(spec, None)
    workbench.results.write(record)
    begun = progress_file.Progress.begin(spec, record.priors, record.environment)
    begun = begun.model_copy(update={"started": record.started + timedelta(seconds=later)})
    progress_file.ProgressFile(workbench.results, begun).write()
    assert [found.state for found in run_states(workbench.results)] == [state]


def test_a_grid_counts_the_runs_that_it_made_itself(tmp_path):
    workbench = bench(tmp_path)
    planned = specs(workbench, "noise", seeds=(0, 1, 2))

    def another_process(event):
        if event.kind == "finished" and event.run == planned[0].hash:
            workbench.results.write(make_record(planned[1]))

    with listening(workbench.registry, another_process):
        done = run_grid(planned, workbench, engine="inline")
    assert done.made == 2
    assert None not in done.records
    assert run_grid(planned, workbench, engine="inline").made == 0


def test_a_clock_that_was_put_back_gives_no_negative_time_left(tmp_path):
    workbench, spec = faulty(tmp_path)
    record = make_record(spec, None)
    begun = progress_file.Progress.begin(spec, record.priors, record.environment)
    later = begun.updated + timedelta(hours=1)
    begun = begun.model_copy(update={"going_since": later, "segments": 4, "done": 2})
    workbench.results.require_writable()
    workbench.results.folder(spec.hash).mkdir()
    progress_file.ProgressFile(workbench.results, begun).write()
    lock = locks.acquire(workbench.results.path, spec.hash)
    assert [(found.state, found.seconds_left) for found in run_states(workbench.results)] == [("running", None)]
    lock.release()


def test_a_file_system_that_becomes_read_only_in_mid_run_is_one_sentence_and_leaves_the_run_interrupted(
    tmp_path, monkeypatch
):
    workbench = bench(tmp_path / "results")
    (spec,) = specs(workbench, "noise")
    touch = Path.touch

    def refused(self, *args, **kwargs):
        if self.is_relative_to(tmp_path / "results"):
            raise OSError(errno.EROFS, "Read-only file system")
        touch(self, *args, **kwargs)

    def hear(event):
        if event.kind == "epoch":
            monkeypatch.setattr(Path, "touch", refused)

    with listening(workbench.registry, hear):
        done = run_grid([spec], workbench, engine="inline", checkpoint_seconds=0)
    assert (done.records, len(done.problems), done.made) == ([None], 1, 0)
    assert "(Read-only file system): choose another folder or fix its permissions" in done.problems[0]
    assert [state.state for state in run_states(workbench.results, [spec])] == ["interrupted"]
