"""The table of faults is true: each test that it names exists, each parity option too; and what has no other home."""

from __future__ import annotations

import ast
import math
import re

import pytest
from support.e2e_kit import RECIPE, bench, own_cache, specs
from support.faults_table import ROOT, ROWS, parity

from dfkd_bench.hooks.registry import STAGE_KINDS, Registry
from dfkd_bench.runs.runner import run_spec
from dfkd_bench.teachers.store import TeacherStore
from dfkd_bench.teachers.training import Training
from dfkd_bench.workbench import Workbench

__all__ = ["own_cache"]


@pytest.mark.parametrize("fault", ROWS)
def test_the_test_that_holds_a_fault_off_exists(fault):
    file, name = ROWS[fault][3].split("::")
    tree = ast.parse((ROOT / file).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("fault", [fault for fault, row in ROWS.items() if row[2]])
def test_a_parity_option_exists_takes_its_value_and_names_the_fault(fault):
    name, values = parity(fault)
    options = Registry().load("synthesizer", name).Options
    base = {"adv": 1.0} if name == "generative" else {}
    options.model_validate({**base, **values})
    for option in values:
        assert f"({fault})" in options.model_fields[option].description


def test_every_fault_named_in_a_description_has_its_row():
    registry = Registry()
    named = set()
    for kind in STAGE_KINDS:
        for name in registry.provided(kind):
            for field in registry.load(kind, name).Options.model_fields.values():
                named |= set(re.findall(r"\bB\d\d\b", field.description))
    assert named == {fault for fault, row in ROWS.items() if row[2]}


def test_no_source_names_a_device_of_its_own():
    sources = [path for part in ("plugins", "baselines") for path in (ROOT / part).rglob("*.py")]
    assert len(sources) > 10
    for path in [*sources, *(ROOT / "dfkd_bench" / "blocks").rglob("*.py")]:
        text = path.read_text()
        assert not re.search(r"\.cuda\(|to\([\"']cuda|device=[\"']", text), path


def test_no_source_numbers_an_equation():
    # The numbers that once stood here could not be traced to a source that was read.
    numbered = re.compile(r"\b(eqs?|equations?|algorithm|section|theorem)\b\.?\s*\(?\d", re.IGNORECASE)
    for part in ("plugins", "baselines", "dfkd_bench"):
        for path in (ROOT / part).rglob("*.py"):
            assert not numbered.search(path.read_text()), path


def test_the_cosine_ends_with_the_schedule_and_the_headline_is_its_last_epoch(tmp_path):
    workbench = bench(tmp_path)
    (spec,) = specs(workbench, "noise", "schedule.epochs=5", "schedule.lr=0.4", "schedule.lr_min=0.1")
    record = run_spec(spec, workbench.results, workbench.store)
    rates = [point.lr for point in record.curve()]
    assert rates == pytest.approx([0.1 + 0.3 * (1 + math.cos(math.pi * k / 5)) / 2 for k in range(5)])
    accuracies = [point.accuracy for point in record.curve()]
    assert record.accuracy.last == accuracies[-1]
    assert record.accuracy.oracle_best == max(accuracies)


def test_a_teachers_test_split_is_opened_once_and_after_training(tmp_path, monkeypatch):
    happened = []
    evaluator, inner = TeacherStore._evaluator, Training.to_the_end

    def fitted(*args):
        inner(*args)
        happened.append("trained")

    monkeypatch.setattr(Training, "to_the_end", fitted)
    monkeypatch.setattr(TeacherStore, "_evaluator", lambda *args: happened.append("opened") or evaluator(*args))
    made = Workbench.make(teachers=tmp_path, device="cpu", precision="fp32", registry=Registry())
    made.store.train("resnet8", "digits", RECIPE.model_copy(update={"epochs": 1}))
    assert happened == ["trained", "opened"]
