"""A folder that cannot be written in the middle of a run: one sentence, and nothing already written is damaged."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest
import torch
from support.e2e_kit import (
    bench,
    cli,
    listening,
    own_cache,  # noqa: F401
    specs,
    teacher_file,
)
from support.engine_kit import fault_specs, grid_command, plugins_on_path  # noqa: F401

from dfkd_bench.engines import run_grid
from dfkd_bench.runs.runner import run_spec

pytestmark = pytest.mark.usefixtures("plugins_on_path")


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "progress.json"}


def test_a_disk_that_is_full_for_one_run_is_one_sentence_and_the_run_goes_on_later(tmp_path):
    workbench = bench(tmp_path / "results")
    full, good = fault_specs(workbench, "full", "none")
    grid = run_grid([full, good], workbench, checkpoint_seconds=0)
    assert [None if record is None else record.status for record in grid.records] == [None, "finished"]
    (sentence,) = grid.problems
    assert sentence.endswith("checkpoint.pt (File too large); what was there before is unharmed")
    left = contents(workbench.results.folder(full.hash))
    assert set(left) == {"checkpoint.pt"}  # the one before, whole, and no piece of the one that failed
    torch.load(workbench.results.folder(full.hash) / "checkpoint.pt", weights_only=True)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_folder_that_cannot_be_written_any_more_stops_the_grid_in_one_sentence(tmp_path, monkeypatch, number):
    workbench = bench(tmp_path / "results")
    earlier, first, second = specs(workbench, "noise", seeds=(0, 1, 2))
    run_spec(earlier, workbench.results, workbench.store)
    before = contents(workbench.results.folder(earlier.hash))
    make = Path.touch

    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    def fill(event):
        if event.kind == "epoch":
            monkeypatch.setattr(Path, "touch", refuse)
            monkeypatch.setattr(tempfile, "TemporaryFile", refuse)

    with listening(workbench.registry, fill):
        done = cli_with(monkeypatch, workbench, [earlier, first, second])
    assert done.code == 2, done
    assert "Traceback" not in done.err
    told = [line for line in done.err.splitlines() if line.startswith("dfkd-bench: ")]
    assert len(told) == 1
    assert f"cannot be written ({os.strerror(number)}): name another one" in told[0]
    assert contents(workbench.results.folder(earlier.hash)) == before
    assert not workbench.results.folder(second.hash).exists()
    kept = contents(workbench.results.folder(first.hash))
    assert set(kept) == {"checkpoint.pt"}
    monkeypatch.undo()
    assert Path.touch is make
    other = bench(tmp_path / "other", workbench.registry)
    again = run_spec(first, other.results, other.store)
    assert run_spec(first, workbench.results, workbench.store).without_times() == again.without_times()


def cli_with(monkeypatch, workbench, planned):
    """`run` on the command line for these specs."""
    monkeypatch.setattr("dfkd_bench.workbench.Workbench.make", classmethod(lambda cls, **_: workbench))
    monkeypatch.setattr("dfkd_bench.api.plan", lambda *_, **__: planned)
    return cli("run", "--method", "noise", "--pair", "resnet8:resnet8", "--checkpoint-seconds", "0")


def test_on_the_command_line_the_sentence_is_told_once_with_exit_status_2(tmp_path):
    command = grid_command(
        tmp_path / "results", tmp_path / "teachers", "--engine", "local", "--set", "synthesizer.fault=full", seeds=2
    )
    arguments = [*command[command.index("run") :], "--teacher", teacher_file(), "--checkpoint-seconds", "0"]
    done = cli(*arguments)
    assert done.code == 2, done
    told = [line for line in done.err.splitlines() if line.startswith("dfkd-bench: ")]
    assert 1 <= len(told) <= 2
    assert all("File too large" in line for line in told), told
    assert "Traceback" not in done.err
