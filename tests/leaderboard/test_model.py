from __future__ import annotations

import math

import pytest
from support.e2e_kit import make_record, make_spec, program

from dfkd_bench.leaderboard.build import build_table, read_table
from dfkd_bench.leaderboard.model import Cell, Row, Table
from dfkd_bench.method import Method, use
from dfkd_bench.results.records import Results


def seeds(*accuracies: float | None, sha256: str = "a" * 64, record: dict | None = None, **changes):
    return [
        make_record(make_spec(seed=n, **changes), acc, sha256=sha256, **(record or {}))
        for n, acc in enumerate(accuracies)
    ]


def environment(**changes):
    return make_record().environment.model_copy(update=changes)


def only_cell(table: Table) -> Cell:
    (cell,) = table.cells
    return cell


def only_row(table: Table) -> Row:
    (row,) = only_cell(table).rows
    return row


class Known:
    """Methods made by hand; a run whose schedule has 2 epochs has its preset's options."""

    def __init__(self, **kinds):
        self.kinds = kinds

    def method(self, name):
        kind = self.kinds.get(name.replace("-", "_"))
        return kind and Method(name=name, summary="", kind=kind, synthesizer=use("noise"))

    def card(self, dataset):
        return None

    def changed(self, spec):
        return spec.schedule.epochs != 2


def test_seeds_of_one_setting_are_one_row_with_mean_interval_and_every_point():
    table = build_table(reversed(seeds(1.0, 2.0, 3.0)))
    row = only_row(table)
    assert (row.statistics.points, row.mean, row.statistics.n, table.runs) == ((1.0, 2.0, 3.0), 2.0, 3, 3)
    # Standard deviation 1, three points: 4.302653 / sqrt(3).
    assert row.half_width == pytest.approx(2.4841, abs=5e-5)
    assert [run.run for run in row.runs] == [record.run for record in seeds(1.0, 2.0, 3.0)]
    assert (row.settings, row.state, row.variant) == (make_spec(seed=2).settings, "finished", "")
    assert (row.oracle_best, row.oracle_premium, row.agreement) == (3.0, 1.0, 60.0)


def test_the_seed_variance_is_pooled_over_the_methods_of_a_cell():
    cell = only_cell(build_table([*seeds(70.0, 71.0, 72.0, method="a"), *seeds(60.0, 62.0, 64.0, method="b")]))
    a, b = cell.rows
    assert (a.method, b.method) == ("a", "b")
    # Variances 1 and 4, two degrees of freedom each: pooled 2.5 with four; 2.776445 * sqrt(2.5 / 3).
    for row, own in ((a, 1.0), (b, 2.0)):
        assert row.statistics.pooled
        assert (row.statistics.deviation, row.statistics.pooled_deviation) == pytest.approx((own, math.sqrt(2.5)))
        assert row.half_width == pytest.approx(2.5345, abs=5e-5)
    # Differences by seed 10, 9, 8: the paired t test's 4.302653 * 1 / sqrt(3).
    assert cell.paired
    assert cell.smallest_difference == pytest.approx(2.4841, abs=5e-5)
    assert (a.standing.label, b.standing.label, b.standing.difference) == ("1", "2", pytest.approx(-9.0))
    # t = 9 * sqrt(3) with two degrees of freedom: p = 1 - t / sqrt(2 + t^2).
    assert b.standing.p == pytest.approx(1 - math.sqrt(243 / 245), abs=1e-9)


def test_methods_that_cannot_be_told_apart_share_a_rank_and_few_seeds_have_none():
    rows = [
        *seeds(70.0, 71.0, 72.0, method="a"),
        *seeds(70.2, 71.3, 71.8, method="b"),
        *seeds(40.1, 41.0, 42.2, method="c"),
        *seeds(90.0, 91.0, method="d"),
    ]
    labels = {row.method: row.standing.label for row in only_cell(build_table(rows)).rows}
    assert labels == {"a": "1=", "b": "1=", "c": "3", "d": "not ranked"}


def test_nulls_and_references_are_set_apart_and_lend_no_variance():
    known = Known(noise="null", scratch="reference", a="method", b="method")
    real = {"record": {"priors": {"synthesizer": "data"}}}
    rows = [
        *seeds(99.0, 99.0, 99.0, method="scratch"),
        *seeds(10.0, 50.0, 90.0, method="noise"),
        # What saw the real data is a reference, whatever its method.
        *seeds(98.0, 98.5, 99.0, method="a", synthesizer={"name": "real-data", "options": {}}, **real),
        *seeds(70.0, 71.0, 72.0, method="a"),
        *seeds(60.0, 62.0, 64.0, method="b"),
    ]
    cell = only_cell(build_table(rows, known))
    assert [(row.kind, row.label) for row in cell.rows] == [
        ("method", "a (synthesizer=noise)"),
        ("method", "b"),
        ("null", "noise"),
        ("reference", "scratch"),
        ("reference", "a (synthesizer=real-data)"),
    ]
    assert [row.standing.label for row in cell.rows] == ["1", "2", "not ranked", "not ranked", "not ranked"]
    assert cell.rows[0].statistics.pooled_deviation == pytest.approx(math.sqrt(2.5))
    # 4.302653 * 40 / sqrt(3): its own.
    assert cell.rows[2].half_width == pytest.approx(99.3655, abs=5e-5)


def test_the_test_splits_size_alone_leaves_an_interval():
    phase = {"seconds": 1.0, "images": 200, "flops": 0, "peak_memory": 0}
    row = only_row(build_table([make_record(accuracy=97.5, cost={"evaluation": phase})]))
    # Wilson's interval of 195 in 200.
    assert row.test_images == 200
    assert (row.sampling.low, row.sampling.high) == pytest.approx((94.282, 98.928), abs=5e-4)
    # 97.4 % of 200 images is no whole number of them: then nobody knows how many there were.
    odd = only_row(build_table([make_record(accuracy=97.4, cost={"evaluation": phase})]))
    assert (odd.test_images, odd.sampling) == (None, None)


@pytest.mark.parametrize(
    ("changes", "variant"),
    [
        ({"distiller": {"name": "kd", "options": {"tau": 4.0, "target_weight": 0.0}}}, "distiller.tau=4.0"),
        ({"augmenter": {"name": "classic", "options": {}}}, "augmenter=classic"),
        ({"schedule": {"epochs": 3, "steps_per_epoch": 3, "batch_size": 8, "lr": 0.1}}, "schedule.epochs=3"),
        ({"record": {"environment": environment(precision="bf16")}}, "precision=bf16"),
        ({"record": {"environment": environment(compiled=True)}}, "precision=fp32 compiled"),
        ({"record": {"environment": environment(plugins={"dfkd-bench": "1"})}}, "dfkd-bench=1"),
    ],
)
def test_other_options_precision_or_code_are_another_row_that_says_so(changes, variant):
    cell = only_cell(build_table([*seeds(1.0, 2.0), *seeds(5.0, 6.0, **changes)]))
    first, second = cell.rows
    assert first.variant == variant
    assert second.variant and second.variant != variant
    assert (first.mean, second.mean) == (5.5, 1.5)
    assert first.id != second.id


@pytest.mark.parametrize(
    "changes",
    [
        {"preset": "paper"},
        {"dataset": "cifar10"},
        {"pair": {"teacher": "resnet8", "student": "vgg8"}},
        {"protocol": "matched"},
        {"sha256": "c" * 64},
        {"record": {"test_split": "c" * 64}},
    ],
)
def test_another_preset_dataset_pair_protocol_teacher_or_test_split_is_another_cell(changes):
    assert len(build_table([*seeds(1.0, 2.0), *seeds(1.0, 2.0, **changes)]).cells) == 2


def test_a_plugin_that_some_runs_did_not_have_makes_no_other_row():
    other = {"record": {"environment": environment(plugins={"dfkd-bench": "0", "stranger": "1"})}}
    row = only_row(build_table([*seeds(1.0, 2.0), *seeds(1.0, 2.0, 3.0, **other)[2:]]))
    assert (row.statistics.n, row.code) == (3, {"dfkd-bench": "0", "stranger": "1"})
    assert len(row.environments) == 2


def test_mixed_teachers_precisions_and_code_are_told():
    table = build_table(
        [
            *seeds(1.0),
            *seeds(1.0, sha256="c" * 64),
            *seeds(1.0, record={"environment": environment(precision="bf16", plugins={"dfkd-bench": "1"})}),
        ]
    )
    assert table.notes == (
        "Mixed teachers: rows of digits resnet8 come from 2 different ones.",
        "Mixed precisions: rows of one table were computed in bf16, fp32.",
        "Mixed code: rows were measured with dfkd-bench 0, 1.",
    )
    assert build_table(seeds(1.0, 2.0)).notes == ()


def test_failures_keep_their_row_and_reasons():
    row = only_row(build_table(seeds(1.0, None, 3.0)))
    assert (row.statistics.n, len(row.lost), row.mean, row.state) == (2, 1, 2.0, "partly failed")
    assert row.reasons == ("seed 1: failed, last good epoch 0: RuntimeError: on purpose",)
    lost = only_row(build_table(seeds(None)))
    assert (lost.mean, lost.half_width, lost.costs, lost.images, lost.state) == (None, None, None, None, "failed")


def test_a_run_that_ended_before_its_teacher_was_known_joins_those_that_asked_for_it():
    recipe = {"teacher": {"recipe": {"epochs": 1}}}
    early = make_record(make_spec(seed=9, **recipe), None, teacher=None, test_split=None)
    one = build_table([early, *seeds(1.0, 2.0, **recipe)])
    assert len(only_row(one).lost) == 1
    two = build_table([early, *seeds(1.0, 2.0, **recipe), *seeds(1.0, sha256="c" * 64, **recipe)])
    assert sorted(cell.key.teacher_sha256 for cell in two.cells) == ["", "a" * 64, "c" * 64]


def test_a_record_that_lies_in_two_folders_counts_once_and_a_contradiction_is_told(tmp_path):
    for folder, accuracies in (("one", (1.0, 3.0, None)), ("two", (1.0, 4.0, 8.0))):
        for record in seeds(*accuracies):
            Results(tmp_path / folder).write(record)
    table = read_table(Results(tmp_path))
    assert only_row(table).statistics.points == (1.0, 3.0, 8.0)
    run = seeds(1.0, 3.0)[1].run
    assert table.notes == (f"Run {run} lies in one/{run} with 3.0 % and in two/{run} with 4.0 %: the first counts.",)


def test_means_costs_and_budgets_of_a_row():
    row = only_row(build_table(seeds(1.0, 2.0)))
    assert (row.images.synthesized, row.images.kept_percent, row.images.in_bank) == (16, 50.0, 21)
    assert row.costs.distillation_samples == 2 * 3 * 8
    assert row.costs.seconds_by_phase == {"synthesis": 2.0, "distillation": 2.0}
    assert (row.costs.seconds, row.costs.flops, row.costs.peak_memory) == (4.0, 2e12, 2**31)
    assert (row.teacher_accuracy, row.precision, row.hardware, row.prior) == (90.0, "fp32", ("a processor",), "none")


def test_a_rows_prior_is_the_strongest_of_its_stages():
    priors = {"synthesizer": "text", "augmenter": "image", "filter": "none", "distiller": "none"}
    assert only_row(build_table([make_record(priors=priors)])).prior == "image"
    assert only_row(build_table([make_record(priors={**priors, "augmenter": "none"})])).prior == "text"


CLAIMED = {"dataset": "cifar10", "pair": {"teacher": "wrn40_2", "student": "wrn16_1"}, "preset": "paper-bank"}


def test_a_published_number_stands_beside_a_row_of_its_setting():
    row = only_row(build_table(seeds(89.4, 89.5, 89.6, method="cmi", **CLAIMED), Known(cmi="method")))
    found = row.claim
    assert (found.claim.top1, found.claim.method, found.verdict) == (90.01, "CMI", "reproduced")
    assert found.gap == pytest.approx(-0.51)
    assert (found.teacher_claimed, found.teacher_measured) == (94.87, 90.0)
    assert len(row.comparisons) == 8


@pytest.mark.parametrize(
    ("changes", "known"),
    [
        ({"schedule": {"epochs": 3, "steps_per_epoch": 3, "batch_size": 8, "lr": 0.1}}, Known(cmi="method")),
        ({"protocol": "matched"}, Known(cmi="method")),
        ({"preset": "quick"}, Known(cmi="method")),
        ({}, None),
    ],
)
def test_changed_options_another_budget_or_a_method_that_is_not_there_is_another_setting(changes, known):
    row = only_row(build_table(seeds(89.4, 89.5, 89.6, method="cmi", **{**CLAIMED, **changes}), known))
    assert row.claim.verdict == "other setting"
    assert {found.gap for found in row.comparisons} == {None}


def test_methods_are_compared_over_cells():
    records = []
    for pair, shift in (("wrn16_1", 0.0), ("vgg8", 5.0)):
        where = {"pair": {"teacher": "resnet8", "student": pair}}
        records += seeds(70.0 + shift, 71.0 + shift, 72.0 + shift, method="a", **where)
        records += seeds(60.0 + shift, 62.0 + shift, 64.0 + shift, method="b", **where)
    table = build_table(records)
    (across,) = table.across
    assert (across.preset, across.protocol, len(across.cells), across.shared) == ("quick", "native", 2, 2)
    (pair,) = across.pairs
    assert (pair.a, pair.b, pair.difference.difference, pair.difference.pairs) == ("a", "b", pytest.approx(9.0), 6)
    # All six differences have one sign: 2 of the 2^6 patterns are as far from zero. A wins each pair of runs.
    assert (pair.difference.p, pair.p, pair.improvement.probability) == (2 / 64, 2 / 64, 1.0)
    # The middle four of 70, 71, 72, 75, 76, 77, as percentages of the teacher's 90.
    assert across.methods[0].method == "a"
    assert across.methods[0].middle.mean == pytest.approx(100 * (71 + 72 + 75 + 76) / 4 / 90)


def test_a_method_with_several_rows_in_a_cell_is_not_in_the_summary():
    changed = {"distiller": {"name": "kd", "options": {"tau": 4.0}}}
    records = [*seeds(70.0, 71.0, method="a"), *seeds(72.0, 73.0, method="a", **changed), *seeds(1.0, 2.0, method="b")]
    other = {"pair": {"teacher": "resnet8", "student": "vgg8"}}
    records += [*seeds(70.0, 71.0, method="a", **other), *seeds(1.0, 2.0, method="b", **other)]
    assert build_table(records).across == ()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "finished", "accuracy": None}, "status finished without an accuracy"),
        ({"cost": {"synthesis": {"seconds": "long"}}}, "the phase 'synthesis' has seconds 'long'"),
        ({"cost": {"synthesis": {"seconds": 1.0, "peak_memory": 1}}}, "has flops None"),
        ({"cost": {"synthesis": {"seconds": math.inf, "flops": 1, "peak_memory": 1}}}, "has seconds inf"),
    ],
)
def test_a_record_without_sense_is_left_out_with_a_reason(changes, reason):
    table = build_table([make_record(make_spec(seed=1), **changes), *seeds(1.0)])
    assert only_row(table).statistics.n == 1
    assert len(table.left_out) == 1
    assert reason in table.left_out[0]


def test_an_accuracy_that_is_no_percentage_is_left_out():
    for accuracy in (-1.0, 101.0):
        (sentence,) = build_table([make_record(accuracy=accuracy)]).left_out
        assert f"last is {accuracy}, which is no percentage" in sentence


def test_no_records_are_an_empty_table():
    assert build_table([]) == Table(())


def test_making_the_table_loads_neither_torch_nor_rich_nor_pandas():
    code = """
import sys
import dfkd_bench.leaderboard.build as b, dfkd_bench.leaderboard.csv_form, dfkd_bench.leaderboard.markdown
import dfkd_bench.leaderboard.latex, dfkd_bench.leaderboard.bibtex
b.build_table([])
sys.exit(bool({"torch", "rich", "pandas"} & set(sys.modules)))
"""
    done = program(code=code)
    assert done.code == 0, done


def test_another_source_of_a_plugin_is_another_row_and_of_the_core_a_note():
    def from_source(seed, accuracy, **source):
        return make_record(make_spec(seed=seed), accuracy, environment=environment(code=source))

    core = build_table([from_source(0, 1.0, dfkd_bench="aa"), from_source(1, 2.0, dfkd_bench="bb")])
    row = only_row(core)
    assert (row.statistics.n, row.code["dfkd_bench source"]) == (2, "aa + bb")
    assert core.notes == ("Mixed code: rows were measured with dfkd_bench source aa + bb.",)
    plugin = build_table([from_source(0, 1.0, stranger="aa"), from_source(1, 2.0, stranger="bb")])
    assert [row.variant for row in only_cell(plugin).rows] == ["stranger source=bb", "stranger source=aa"]
