from __future__ import annotations

import csv
import io

import pytest
from support.e2e_kit import make_record, make_spec

from dfkd_bench.errors import DfkdError
from dfkd_bench.leaderboard.study import Study, study_of
from dfkd_bench.leaderboard.study_figure import write_study_figure
from dfkd_bench.results.records import Accuracy, BankReport, Record

ARMS = {"low": (50.0, 51.0, 52.0), "high": (90.0, 91.0, 92.0), "=higher": (91.5, 90.5, 92.5), "nothing": ()}


def record(seed: int, accuracy: float, kept: int) -> Record:
    made = make_record(make_spec(seed=seed))
    bank = BankReport(synthesized=10, augmented=10, kept=kept, in_bank=10 + kept, target_agreement=75.0)
    scores = Accuracy(last=accuracy, last_top5=100, oracle_best=accuracy, oracle_epoch=1, agreement=90)
    phase = {"seconds": 1.0, "images": 1, "forward": {}, "backward": {}, "peak_memory": 1}
    cost = {"synthesis": {**phase, "flops": 3_000}, "augmentation": {**phase, "flops": 1_000}}
    return made.model_copy(update={"bank": bank, "accuracy": scores, "cost": cost})


@pytest.fixture(scope="module")
def study() -> Study:
    return study_of(
        (label, [record(seed, value, kept=5 + seed) for seed, value in enumerate(values)])
        for label, values in ARMS.items()
    )


def test_arms_that_can_be_told_apart_are(study):
    assert [arm.standing.label for arm in study.arms] == ["3", "1=", "1=", "not ranked"]
    assert study.verdict().startswith(
        "'low' can be told from the best arm, '=higher'; 'high' cannot. The smallest difference"
    )


def test_equal_arms_are_said_to_be_equal():
    same = study_of((label, [record(seed, 90 + seed, 1) for seed in range(3)]) for label in ("a", "b"))
    assert same.verdict().startswith("No arm can be told from the best mean, that of 'a'. The smallest difference")


def test_below_three_seeds_nothing_is_said_to_differ():
    few = study_of((label, [record(0, value, 1)]) for label, value in (("a", 10.0), ("b", 90.0)))
    assert few.verdict() == "Fewer than two arms have 3 seeds, so that nothing is ranked."


def test_the_table_has_means(study):
    low, _, higher, nothing = csv.DictReader(io.StringIO(study.csv()))
    assert (low["n"], low["accuracy"], low["kept_percent"]) == ("3", "51.0", "60.0")  # 5, 6 and 7 of 10
    assert float(low["deviation"]) == pytest.approx(1)
    assert float(low["difference_from_best"]) == pytest.approx(51 - 91.5)
    assert higher["arm"] == "'=higher"  # no spreadsheet runs it
    assert (nothing["n"], nothing["accuracy"], nothing["kept_percent"]) == ("0", "", "")
    assert "| low | 3 | 51.00 ±" in study.markdown()


def test_words_are_filled_from_the_records(study):
    words = """{best} with {n} seeds:
    {kept:low} kept, {wanted:low}, {images:low}; {flops:low}, {augmentation:low}; {accuracy:nothing}; {kept:nothing}"""
    filled = study.paragraph(words)
    assert filled.startswith("'=higher' (91.50 ±")
    assert filled.endswith("0 to 3 seeds: 60.0 % kept, 75.0 %, 16; 4.00 kFLOP, 25 %; (not measured); (not measured)")


@pytest.mark.parametrize(
    ("words", "told"), [("{bset}", "best"), ("{kept:lwo}", "low"), ("{kpet:low}", "kept"), ("{kept}", "placeholder")]
)
def test_a_slip_in_the_words_is_said(study, words, told):
    with pytest.raises(DfkdError, match=told):
        study.paragraph(words)


def test_without_a_finished_run_there_is_nothing_to_tell():
    with pytest.raises(DfkdError, match="no run of the study has finished"):
        study_of([("a", [])])


def test_the_figure_is_written_in_each_format(study, tmp_path):
    written = write_study_figure(study, "study x", tmp_path, "study-x")
    assert [path.name for path in written] == ["study-x.pdf", "study-x.svg", "study-x.png"]
    text = (tmp_path / "study-x.svg").read_text()
    assert all(path.stat().st_size for path in written) and "</svg>" in text
