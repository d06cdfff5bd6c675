from __future__ import annotations

import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from dfkd_bench.errors import DfkdError
from dfkd_bench.leaderboard.statistics import (
    describe,
    equal_variances_p,
    oracle_premium,
    pareto_front,
    sampling_error,
)


def row(*accuracies: float) -> dict[int, float]:
    return dict(enumerate(accuracies))


def test_the_variance_is_pooled_over_the_rows_of_a_cell():
    # Variances 1 and 2.5 with 2 and 4 degrees of freedom: pooled (2 * 1 + 4 * 2.5) / 6 = 2, t(0.975, 6) = 2.446912.
    first, second = describe([row(1.0, 2.0, 3.0), row(10.0, 11.0, 12.0, 13.0, 14.0)])
    assert (first.mean, first.n, first.deviation) == (2.0, 3, 1.0)
    assert second.deviation == pytest.approx(math.sqrt(2.5))
    assert first.pooled_deviation == second.pooled_deviation == pytest.approx(math.sqrt(2))
    assert first.pooled and first.degrees == second.degrees == 6
    assert first.half_width == pytest.approx(2.446912 * math.sqrt(2 / 3), abs=1e-5)
    assert second.half_width == pytest.approx(2.446912 * math.sqrt(2 / 5), abs=1e-5)


def test_a_row_keeps_its_own_variance_where_the_variances_differ():
    cell = [row(90.0, 90.1, 89.9), row(80.0, 70.0, 60.0)]
    assert equal_variances_p(cell) < 0.01
    quiet, noisy = describe(cell)
    assert not quiet.pooled and not noisy.pooled
    # Student's t of the row alone: 4.302653 * s / sqrt(3).
    assert quiet.half_width == pytest.approx(4.302653 * 0.1 / math.sqrt(3), abs=1e-6)
    assert noisy.half_width == pytest.approx(4.302653 * 10 / math.sqrt(3), abs=1e-4)
    assert noisy.degrees == 2
    assert quiet.pooled_deviation == pytest.approx(math.sqrt((0.01 + 100) / 2))


def test_a_single_seed_borrows_the_pooled_variance_and_has_none_of_its_own():
    alone, other = describe([row(50.0), row(1.0, 2.0, 3.0)])
    assert alone.deviation is None
    assert alone.half_width == pytest.approx(4.302653, abs=1e-6)
    assert other.half_width == pytest.approx(2.484138, abs=1e-5)
    (nothing,) = describe([row(50.0)])
    assert (nothing.mean, nothing.half_width, nothing.pooled_deviation) == (50.0, None, None)
    (empty, _) = describe([{}, row(1.0, 2.0)])
    assert (empty.mean, empty.half_width, empty.n) == (None, None, 0)


def test_points_stand_in_the_order_of_their_seeds():
    assert describe([{2: 3.0, 0: 1.0, 1: 2.0}])[0].points == (1.0, 2.0, 3.0)


def test_the_level_is_that_of_the_interval():
    assert describe([row(1.0, 2.0, 3.0)], level=0.9)[0].half_width == pytest.approx(1.6859, abs=5e-5)


def test_the_test_of_equal_variances_is_bartletts():
    generator = np.random.default_rng(0)
    rows = [generator.normal(90, deviation, n) for deviation, n in ((1, 3), (2, 5), (1, 4), (5, 3))]
    assert equal_variances_p([row(*points) for points in rows]) == pytest.approx(stats.bartlett(*rows).pvalue)
    assert equal_variances_p([row(1.0, 2.0)]) is None
    assert equal_variances_p([row(1.0, 1.0), row(2.0, 2.0)]) == 1
    assert equal_variances_p([row(1.0, 1.0), row(2.0, 3.0)]) == 0


def test_an_accuracy_that_is_no_number_is_refused():
    with pytest.raises(DfkdError, match="the accuracy of seed 1 is nan"):
        describe([row(1.0, math.nan)])


@pytest.mark.parametrize(("accuracy", "images"), [(97.5, 359), (90.0, 10_000), (100.0, 359), (0.0, 20)])
def test_the_sampling_error_is_wilsons(accuracy: float, images: int):
    expected = stats.binomtest(round(accuracy / 100 * images), images).proportion_ci(method="wilson")
    found = sampling_error(100 * round(accuracy / 100 * images) / images, images)
    assert (found.low, found.high) == pytest.approx((100 * expected.low, 100 * expected.high))


def test_359_digits_leave_some_one_and_a_half_points_open():
    assert sampling_error(97.5, 359).half_width == pytest.approx(1.6, abs=0.1)
    assert sampling_error(90, 10_000).half_width == pytest.approx(0.59, abs=0.005)
    assert sampling_error(100, 359).half_width == pytest.approx(0.53, abs=0.005)
    for accuracy, images in ((101, 10), (-1, 10), (math.nan, 10), (50, 0)):
        with pytest.raises(DfkdError, match="no sampling error"):
            sampling_error(accuracy, images)


def test_the_oracles_premium():
    assert oracle_premium(90.5, 90.0) == 0.5
    assert oracle_premium(None, 90.0) is None
    assert oracle_premium(90.0, None) is None


def test_the_front_is_what_nothing_beats():
    points = [(3.0, 90.0), (1.0, 80.0), (2.0, 85.0), (2.0, 84.0), (4.0, 90.0), (2.5, 85.0)]
    assert pareto_front(points) == [1, 2, 0]
    assert pareto_front([(1.0, 80.0), (1.0, 80.0), (2.0, 80.0)]) == [0, 1]
    assert pareto_front([(None, 99.0), (1.0, None), (5.0, 10.0), (math.nan, 99.0), (0.0, math.inf)]) == [2]
    assert pareto_front([]) == []


def test_the_front_agrees_with_its_definition():
    generator = np.random.default_rng(0)
    points = [(float(cost), float(accuracy)) for cost, accuracy in generator.integers(0, 12, (60, 2))]

    def beaten(point: tuple[float, float]) -> bool:
        return any(c <= point[0] and a >= point[1] and (c, a) != point for c, a in points)

    assert sorted(pareto_front(points)) == [at for at, point in enumerate(points) if not beaten(point)]


def test_statistics_import_neither_torch_nor_scipy_stats():
    code = "import sys; from dfkd_bench.leaderboard import statistics, ties, across, claims; "
    code += "print({'torch', 'scipy.stats'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
