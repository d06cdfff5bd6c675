from __future__ import annotations

import io
import json
from contextlib import redirect_stdout

import pandas as pd
import pytest
from support.e2e_kit import make_record, make_spec, program

from dfkd_bench.cli.tables import print_table
from dfkd_bench.leaderboard.table import COLUMNS, build, t_interval, write_csv


def seeds(*accuracies: float | None, sha256: str = "a" * 64, **changes):
    return [make_record(make_spec(seed=n, **changes), acc, sha256=sha256) for n, acc in enumerate(accuracies)]


def test_the_interval_is_students():
    # Standard deviation 1, three points: 4.302653 / sqrt(3).
    assert t_interval([1.0, 2.0, 3.0]) == pytest.approx(2.4841, abs=5e-5)
    # Two points one apart: 12.706205 * sqrt(0.5) / sqrt(2).
    assert t_interval([1.0, 2.0]) == pytest.approx(6.3531, abs=5e-5)
    assert t_interval([1.0, 2.0, 3.0], level=0.9) == pytest.approx(1.6859, abs=5e-5)
    assert t_interval([5.0, 5.0, 5.0]) == 0
    assert t_interval([5.0]) is None
    assert t_interval([]) is None


def test_seeds_of_one_setting_are_one_row_with_mean_interval_and_every_point():
    table = build(seeds(1.0, 2.0, 3.0))
    (row,) = table.to_dict("records")
    assert row["seeds"] == 3
    assert row["failed"] == 0
    assert row["accuracy"] == 2.0
    assert row["accuracy_ci95"] == pytest.approx(2.4841, abs=5e-5)
    assert json.loads(row["accuracy_points"]) == [1.0, 2.0, 3.0]
    assert row["oracle_best"] == 3.0
    assert row["runs"].split() == [record.run for record in seeds(1.0, 2.0, 3.0)]
    assert row["settings"] == make_spec(seed=2).settings


def test_points_stand_in_the_order_of_their_seeds():
    (row,) = build(reversed(seeds(1.0, 2.0, 3.0))).to_dict("records")
    assert json.loads(row["accuracy_points"]) == [1.0, 2.0, 3.0]


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "paper"},
        {"dataset": "cifar10"},
        {"pair": {"teacher": "resnet8", "student": "vgg8"}},
        {"distiller": {"name": "kd", "options": {"tau": 4.0}}},
        {"augmenter": {"name": "classic", "options": {}}},
        {"schedule": {"epochs": 3, "steps_per_epoch": 3, "batch_size": 8, "lr": 0.1}},
    ],
)
def test_other_settings_are_another_row(changes):
    assert len(build([*seeds(1.0, 2.0), *seeds(1.0, 2.0, **changes)])) == 2


def test_a_record_that_lies_in_two_folders_counts_once():
    (row,) = build([*seeds(1.0, 3.0), *seeds(1.0, 3.0)]).to_dict("records")
    assert (row["seeds"], row["accuracy"]) == (2, 2.0)


def test_failures_are_counted_with_their_reasons_and_keep_their_row():
    (row,) = build(seeds(1.0, None, 3.0)).to_dict("records")
    assert (row["seeds"], row["failed"], row["accuracy"]) == (2, 1, 2.0)
    assert row["reasons"] == "seed 1: failed: RuntimeError: on purpose"
    (lost,) = build(seeds(None)).to_dict("records")
    assert (lost["seeds"], lost["failed"]) == (0, 1)
    assert pd.isna(lost["accuracy"])
    assert pd.isna(lost["accuracy_ci95"])
    shown = screen(build(seeds(1.0, None)))
    assert "1 (+1 failed)" in shown


def test_one_seed_has_no_interval():
    (row,) = build(seeds(1.0)).to_dict("records")
    assert pd.isna(row["accuracy_ci95"])


def screen(table) -> str:
    with redirect_stdout(io.StringIO()) as out:
        print_table(table)
    return out.getvalue()


def test_teachers_are_never_mixed_in_a_row_and_a_table_with_several_says_so():
    mixed = build([*seeds(1.0, 2.0), *seeds(3.0, 4.0, sha256="c" * 64)])
    assert len(mixed) == 2
    assert "Mixed teachers: rows of digits resnet8 come from 2 different ones." in screen(mixed)
    assert "Mixed teachers" not in screen(build(seeds(1.0, 2.0)))


def test_fewer_than_three_seeds_are_said_to_rank_nothing():
    assert "no ranking can be read" in screen(build(seeds(1.0, 2.0)))
    assert "no ranking can be read" not in screen(build(seeds(1.0, 2.0, 3.0)))


def test_means_costs_and_budgets_of_a_row():
    (row,) = build(seeds(1.0, 2.0)).to_dict("records")
    assert row["synthesized"] == 16
    assert row["kept_percent"] == 50.0
    assert row["bank"] == 21
    assert row["distillation_samples"] == 2 * 3 * 8
    assert (row["seconds_synthesis"], row["seconds_augmentation"], row["seconds_distillation"]) == (2.0, 0.0, 2.0)
    assert row["tflops"] == 2.0
    assert row["peak_memory_gib"] == 2.0
    assert row["teacher_accuracy"] == 90.0
    assert (row["hardware"], row["precision"], row["prior"]) == ("a processor", "fp32", "none")


def test_a_rows_prior_is_the_strongest_of_its_stages():
    priors = {"synthesizer": "text", "augmenter": "image", "filter": "none", "distiller": "none"}
    (row,) = build([make_record(priors=priors)]).to_dict("records")
    assert row["prior"] == "image"
    (row,) = build([make_record(priors={**priors, "augmenter": "none"})]).to_dict("records")
    assert row["prior"] == "text"


def test_rows_are_sorted_by_dataset_preset_and_pair_then_best_first_and_failures_last():
    records = [
        *seeds(None, method="lost"),
        *seeds(10.0, method="worst"),
        *seeds(30.0, method="best"),
        *seeds(20.0, method="middle"),
        *seeds(99.0, method="other-pair", pair={"teacher": "vgg8", "student": "vgg8"}),
        *seeds(5.0, method="first", dataset="a-dataset"),
        *seeds(99.0, method="paper", preset="paper"),
    ]
    assert list(build(records)["method"]) == ["first", "paper", "best", "middle", "worst", "lost", "other-pair"]


def test_native_and_matched_share_neither_a_row_nor_a_heading():
    records = [*seeds(10.0, 30.0), *seeds(20.0, 40.0, protocol="matched")]
    table = build(records)
    assert table[["protocol", "accuracy"]].values.tolist() == [["matched", 30.0], ["native", 20.0]]
    assert table["settings"].nunique() == 2
    shown = screen(table)
    assert [line.strip() for line in shown.splitlines() if "budgets" in line] == [
        f"digits, preset quick, {protocol} budgets: test accuracy in percent after the last epoch"
        for protocol in ("matched", "native")
    ]
    matched, native = shown.split("native budgets")
    assert ("30.00" in matched, "20.00" in matched) == (True, False)
    assert ("30.00" in native, "20.00" in native) == (False, True)


def test_a_long_table_is_cut_on_the_screen_alone():
    table = build([make_record(make_spec(method=f"m{n}"), 50.0) for n in range(203)])
    assert len(table) == 203
    assert "3 more rows are in leaderboard.csv." in screen(table)
    assert "more rows" not in screen(table.head(200))


def test_the_csv_has_the_promised_columns_and_the_same_rows(tmp_path):
    table = build([*seeds(1.0, 2.0), *seeds(None, method="lost")])
    write_csv(table, tmp_path / "new" / "leaderboard.csv")
    read = pd.read_csv(tmp_path / "new" / "leaderboard.csv", keep_default_na=False, na_values=[""])
    assert tuple(read.columns) == COLUMNS
    assert COLUMNS[:11] == (
        "dataset", "teacher", "student", "preset", "protocol",
        "method", "synthesizer", "augmenter", "filter", "distiller", "prior",
    )  # fmt: skip
    assert list(read["method"]) == ["noise", "lost"]
    assert read["augmenter"].tolist() == ["none", "none"]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["leaderboard.csv"]


def test_no_records_are_an_empty_table_with_the_same_columns():
    assert build([]).empty
    assert tuple(build([]).columns) == COLUMNS


def test_making_the_table_loads_no_torch():
    code = "import sys, dfkd_bench.leaderboard.table as t; t.build([]); sys.exit('torch' in sys.modules)"
    done = program(code=code)
    assert done.code == 0, done
