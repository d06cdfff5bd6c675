"""A real file system that the kernel makes read-only in the middle of a run, as it does after a disk error."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from support.e2e_kit import bench, listening, own_cache, specs  # noqa: F401

from dfkd_bench import DfkdError
from dfkd_bench.engines import run_grid
from dfkd_bench.results.status import run_states
from dfkd_bench.runs.runner import run_spec

pytestmark = pytest.mark.long


@pytest.fixture
def disk(tmp_path):
    """A folder on an ext4 file system of its own, and what makes the kernel find an error in it."""
    image, folder = tmp_path / "disk.img", tmp_path / "disk"
    folder.mkdir()
    with image.open("wb") as file:
        file.truncate(64 * 2**20)
    before = set(Path("/sys/fs/ext4").glob("*"))
    try:
        subprocess.run(["mkfs.ext4", "-q", image], check=True, capture_output=True)
        subprocess.run(["mount", "-o", "loop,errors=remount-ro", image, folder], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no file system can be mounted here: {error}")
    (device,) = [path for path in set(Path("/sys/fs/ext4").glob("*")) - before if path.name.startswith("loop")]
    yield folder, lambda: (device / "trigger_fs_error").write_text("a test", encoding="ascii")
    subprocess.run(["umount", folder], check=True)


def test_it_is_one_sentence_and_the_run_is_resumed_on_another_disk(disk, tmp_path, monkeypatch):
    folder, break_it = disk
    workbench = bench(folder / "results")
    (earlier, spec) = specs(workbench, "noise", seeds=(0, 1))
    run_spec(earlier, workbench.results, workbench.store)
    record = (workbench.results.folder(earlier.hash) / "record.json").read_bytes()

    def hear(event):
        if event.kind == "epoch":
            break_it()

    sentence = r"the results folder .* cannot be written \(Read-only file system\): name another one$"
    with listening(workbench.registry, hear), pytest.raises(DfkdError, match=sentence):
        run_grid([spec], workbench, engine="inline", checkpoint_seconds=0)
    with pytest.raises(OSError, match="Read-only file system"):
        (folder / "file").touch()
    # Locks cannot be tried there; the run counts as going on until its last word is old.
    monkeypatch.setattr("dfkd_bench.results.status._FRESH_SECONDS", 0)
    states = {state.run: state.state for state in run_states(workbench.results, [earlier, spec])}
    assert states == {earlier.hash: "done", spec.hash: "interrupted"}
    assert (workbench.results.folder(earlier.hash) / "record.json").read_bytes() == record
    shutil.copytree(folder / "results", tmp_path / "rescued")
    rescued, whole = bench(tmp_path / "rescued"), bench(tmp_path / "whole")
    again = run_spec(spec, rescued.results, rescued.store)
    assert again.without_times() == run_spec(spec, whole.results, whole.store).without_times()
