"""The scripts for a lent GPU, rehearsed on the CPU: they stop by themselves, resume, and end in a table."""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path

import pytest
from support.e2e_kit import own_cache, program  # noqa: F401

from dfkd_bench.results.records import Results

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "path", list(sys.path))
    return importlib.import_module


def rows_of(out):
    return {row[0]: row[1:] for row in json.loads((out / "campaign.json").read_text())["rows"]}


def test_a_campaign_stops_when_the_time_is_up_and_resumes_from_its_folder(script, tmp_path, monkeypatch, capsys):
    lent, campaign = script("lent"), script("gpu_campaign")
    from dfkd_bench import engines

    real, begun = engines.run_grid, []

    def until_the_second(specs, *more, **how):
        begun.append(specs[0].synthesizer.name)
        if len(begun) == 2:
            raise lent.TimeIsUp
        return real(specs, *more, **how)

    monkeypatch.setattr(engines, "run_grid", until_the_second)
    first, second = tmp_path / "first", tmp_path / "second"
    command = ["--rehearse", "--methods", "fast", "noise", "no-such-method"]
    assert campaign.main([*command, "--out", str(first)]) == 3
    assert {name: row[1] for name, row in rows_of(first).items()} == {
        "teacher resnet8": "there",
        "fast": "finished",
        "noise": "waits",
        "no-such-method": "cannot run",
    }
    assert "goes on from there" in capsys.readouterr().out
    stamps = {path: path.stat().st_mtime_ns for path in first.rglob("record.json")}
    assert campaign.main([*command, "--out", str(second), "--from", str(first)]) == 0
    assert begun == ["fast", "noise", "fast", "noise"]
    assert {row[1] for name, row in rows_of(second).items() if name != "no-such-method"} == {"there", "finished"}
    # The teacher and the record came along, and nothing was made twice.
    again = {second / path.relative_to(first): stamp for path, stamp in stamps.items()}
    assert {path: path.stat().st_mtime_ns for path in again} == again
    assert len(list(Results(second / "results").path.rglob("record.json"))) == 2


def test_the_clock_interrupts_what_is_inside_as_ctrl_c_does(script):
    lent = script("lent")
    clock = lent.Clock(1)
    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt), clock.stops(0.05):
        time.sleep(5)
    assert time.monotonic() - start < 2
    with pytest.raises(lent.TimeIsUp), lent.Clock(0).stops():
        raise AssertionError("there is no time for it")
    with clock.stops(60):
        pass  # what ends in time is left alone


def test_what_a_python_lacks_is_a_sentence(script, monkeypatch):
    lent = script("lent")
    real = lent.find_spec
    monkeypatch.setattr(lent, "find_spec", lambda name: None if name in ("pydantic", "PIL") else real(name))
    with pytest.raises(SystemExit, match=r"^this Python has no pydantic, pillow: install with pip install pydantic pi"):
        lent.require()


def test_a_checkout_that_is_not_installed_has_its_plugins(script, monkeypatch):
    lent = script("lent")
    from dfkd_bench.hooks import registry

    installed = set(lent.make_registry().provided("method"))
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    assert set(lent.make_registry().provided("method")) == installed
