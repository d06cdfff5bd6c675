"""Every method on a GPU that is not there: nothing on two devices, and no step that waits for the device."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import filelock
import pytest
from support import device_faults
from support.device_faults import BROKEN, FAULTLESS, SLOW

from dfkd_bench.hooks.registry import default_registry

ROOT = Path(__file__).parents[1]
METHODS = list(default_registry().provided("method"))
# Steps of theirs that learn images; the others make theirs without.
LEARNED_NOTHING = {"noise", "untrained-generator", "one-image", "other-dataset", "real-data", "scratch"}


def session(what):
    # In a process of its own: half of PyTorch is patched there.
    path = os.pathsep.join([str(ROOT / "benchmarks"), str(ROOT / "tests"), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "support.fake_gpu_session", what],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """A session's answer; whichever of pytest's processes asks first waits for it, the others read it."""
    # Below the folder that pytest-xdist's processes share, if there are any.
    shared = tmp_path_factory.getbasetemp()
    shared = shared.parent if "PYTEST_XDIST_WORKER" in os.environ else shared

    def ask(what):
        path = shared / f"fake-gpu-{what}.json"
        with filelock.FileLock(f"{path}.lock"):
            if not path.exists():
                path.write_text(json.dumps(session(what)))
        return json.loads(path.read_text())

    return ask


@pytest.fixture(scope="session")
def methods(once):
    return once("methods")


@pytest.fixture(scope="session")
def faults(once):
    return once("faults")


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
@pytest.mark.parametrize("method", METHODS)
def test_a_method_runs_on_a_gpu_without_a_wait_in_its_steps(methods, method, precision):
    seen = methods[f"{method} {precision}"]
    assert seen["error"] is None
    assert "distillation" in seen["kinds"]
    assert ("synthesis, learning" in seen["kinds"]) == (method not in LEARNED_NOTHING)
    assert ("augmentation, denoising" in seen["kinds"]) == (method == "dda")
    assert seen["seen"] == []
    assert seen["half"] == (precision == "bf16")


def test_the_faultless_stage_shows_nothing(faults):
    seen = faults[f"{FAULTLESS} fp32"]
    assert (seen["error"], seen["seen"]) == (None, [])


@pytest.mark.parametrize(("stage", "words"), BROKEN.items())
def test_a_planted_fault_that_breaks_a_run_is_found(faults, stage, words):
    error = faults[f"{stage.__name__} fp32"]["error"]
    assert words in error
    assert "device_faults.py" in error or "load_state_dict" in error


@pytest.mark.parametrize(("stage", "expected"), SLOW.items())
def test_a_planted_wait_is_found_with_its_line(faults, stage, expected):
    what, line = expected
    seen = faults[f"{stage.__name__} fp32"]
    assert seen["error"] is None
    number = next(n for n, text in enumerate(Path(device_faults.__file__).read_text().splitlines(), 1) if line in text)
    assert seen["seen"] == [f"synthesis, learning: support/device_faults.py:{number}: {what}"]


def test_the_contract_kit_plays_on_a_gpu(faults):
    seen = faults["contract"]
    assert {check.partition(":")[0] for check in seen} == {"deepinversion", "classic", "cosine", "kd"}
    assert {check: error for check, error in seen.items() if error} == {}


def test_the_steps_that_are_timed_take_place_on_a_gpu(faults):
    assert {name: error for name, error in faults["steps"].items() if error} == {}


def test_a_table_of_counts_shows_both_numbers_where_they_differ(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    counts = __import__("gpu_counts")
    before, after = (
        {"m": {"distillation": {"launches": launches, "bytes": 2_340_000_000, "waits": 1, "uploads": 0}}}
        for launches in (9, 7)
    )
    assert counts.table(before, after).splitlines()[2:] == ["| m | distillation | 9 → 7 | 2.34 | 1 | 0 |"]
