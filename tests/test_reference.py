"""The committed records are whole, and the README says what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from dfkd_bench.hooks.registry import Registry
from dfkd_bench.planning.requests import Request, resolve
from dfkd_bench.results.records import Record, Results

ROOT = Path(__file__).parents[1]
RECORDS = list(Results(ROOT / "results" / "reference" / "digits-quick").records())
ROW = r"^\| ([\w-]+)(?: \(.*\))? \| (\w+) \| (\d+\.\d\d) \| (?:(\d+) %)? ?\|$"
ROWS = re.findall(ROW, (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)


def test_every_method_has_a_record_of_the_same_teacher() -> None:
    assert len(RECORDS) == 16
    assert len({record.teacher and record.teacher.sha256 for record in RECORDS}) == 1
    assert {record.status for record in RECORDS} == {"finished"}


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.spec.method)
def test_the_recipes_of_today_ask_for_the_records_run(record: Record) -> None:
    spec, registry = record.spec, Registry()
    asked = Request([spec.method], [spec.pair], spec.dataset, spec.teacher, spec.preset)
    assert resolve(registry.load("method", spec.method), asked, spec.pair, spec.seed, registry).hash == record.run


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.spec.method)
def test_the_readmes_row_is_the_record(record: Record) -> None:
    ((_, prior, accuracy, agreement),) = [row for row in ROWS if row[0] == record.spec.method]
    assert record.accuracy is not None
    assert float(accuracy) == round(record.accuracy.last, 2)
    assert prior in record.priors.values()
    reported = record.bank.target_agreement
    guesses = {"noise", "one-image", "other-dataset"}  # whose targets are the teacher's own
    assert agreement == ("" if reported is None or record.spec.method in guesses else f"{reported:.0f}")
    assert (ROOT / "results" / "reference" / "digits-quick" / record.run / str(record.images)).exists()
