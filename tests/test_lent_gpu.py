"""The scripts for a lent GPU, rehearsed on the CPU: they stop by themselves, resume, and end in a table."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from pathlib import Path
from unittest import mock

import pytest
from support.e2e_kit import own_cache, program, teacher_file, teachers_folder  # noqa: F401

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


@pytest.mark.slow
def test_the_checks_of_a_day_are_rehearsed_and_end_in_a_table(script, tmp_path, capsys):
    day = script("gpu_day")
    assert day.main(["--rehearse", "--out", str(tmp_path), "--variants", "eager", "no-such-way"]) == 0
    told = json.loads((tmp_path / "gpu-day.json").read_text())
    assert (told["device"], told["precision"]) == ("cpu", "bf16") and "torch" in told["versions"]
    twins, steps, resume = told["rows"]
    assert (twins["check"], twins["verdict"], twins["numbers"]["again"]) == ("twins", "ok", 0)
    assert "no-such-way is not there" in twins["text"]
    assert (resume["check"], resume["verdict"], resume["numbers"]["apart"]) == ("resume", "ok", 0)
    assert steps["numbers"]["step launches"] > steps["numbers"]["floor launches"] > 100
    assert capsys.readouterr().out.splitlines()[-4].split() == ["check", "of", "verdict", "s", "found"]


def test_a_check_that_fails_or_has_no_time_is_a_row_and_not_an_end(script, capsys):
    day, lent = script("gpu_day"), script("lent")

    class Stub:
        asked = argparse.Namespace(rehearse=False)

        def checks(self):
            yield "twins", "one", lambda what: 1 / 0
            yield "steps", "two", lambda what: time.sleep(5)
            yield "resume", "three", lambda what: day.Row("resume", what, "ok")

    told = []
    with mock.patch.dict(day.BUDGET, steps=0.05):
        rows = day.perform(Stub(), lent.Clock(1), lambda rows: told.append(len(rows)))
    assert [(row.what, row.verdict) for row in rows] == [("one", "FAIL"), ("two", "not run"), ("three", "ok")]
    assert rows[0].text == "ZeroDivisionError: division by zero" and "line" in rows[0].numbers["traceback"]
    assert told == [1, 2, 3]
    late = day.perform(Stub(), lent.Clock(0), lambda rows: None)
    assert [(row.verdict, row.text) for row in late] == [("not run", "the time was up")] * 3


def test_runs_are_as_far_apart_as_their_worst_loss(script):
    day = script("gpu_day")

    def curve(*losses):
        return mock.Mock(curve=lambda: [mock.Mock(losses={"kd": 2.0, "bn": loss}) for loss in losses])

    assert day.apart(curve(1.0, 4.0), curve(1.0, 5.0)) == 0.25
    assert day.apart(curve(1.0), curve(1.0)) == 0
    assert day.apart(curve(1.0), curve(1.0, 1.0)) == float("inf")


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


def test_a_run_needs_no_diffusers(tmp_path):
    # Of a machine that has none: whatever asks for it fails.
    code = (
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] in ('diffusers', 'transformers'):\n"
        "            raise ModuleNotFoundError(f'no {name}')\n"
        "sys.meta_path.insert(0, Absent())\n"
        "from dfkd_bench.cli import main; main()"
    )
    sets = [f"--set=schedule.{each}" for each in ("epochs=1", "steps_per_epoch=2", "batch_size=8", "warmup_rounds=1")]
    places = ["--results", str(tmp_path / "results"), "--teachers", str(teachers_folder()), "--device", "cpu"]
    run = ["run", "--method", "noise", "--pair", "resnet8:resnet8", "--engine", "inline", *sets, *places]
    done = program(*run, "--teacher", str(teacher_file()), code=code)
    assert done.code == 0, done
    assert len(list((tmp_path / "results").rglob("record.json"))) == 1
