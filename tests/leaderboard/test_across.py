from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from dfkd_bench.errors import DfkdError
from dfkd_bench.leaderboard.across import (
    EXACT_UP_TO,
    interquartile_mean,
    mean_difference,
    paired_differences,
    probability_of_improvement,
)


def row(*accuracies: float) -> dict[int, float]:
    return dict(enumerate(accuracies))


def test_differences_are_paired_by_seed():
    assert paired_differences({0: 1.0, 2: 5.0, 3: 7.0}, {3: 4.0, 2: 1.0, 1: 9.0}) == [4.0, 3.0]
    with pytest.raises(DfkdError, match="seed 1 is nan"):
        paired_differences(row(1.0, math.nan), row(1.0, 2.0))


def test_the_sign_flip_test_of_one_cell_is_exact():
    a, b = (91.0, 92.0, 90.5, 91.5, 92.5, 90.0), (90.0, 91.5, 90.7, 90.2, 91.0, 89.6)
    found = mean_difference([(row(*a), row(*b))])
    expected = stats.permutation_test(
        (a, b), lambda x, y: np.mean(x) - np.mean(y), permutation_type="samples", n_resamples=np.inf
    )
    assert found.exact
    assert found.p == pytest.approx(expected.pvalue)
    assert found.difference == pytest.approx(np.mean(a) - np.mean(b))
    assert (found.cells, found.pairs) == (1, 6)


def test_each_cell_weighs_the_same():
    cells = [(row(2.0, 2.0), row(0.0, 0.0)), (row(1.0, 1.0, 1.0, 1.0), row(0.0, 0.0, 0.0, 0.0))]
    found = mean_difference(cells)
    assert found.difference == 1.5
    # By hand: the largest of 64 sums, and its negative.
    assert found.p == 2 / 64
    differences = [(1.0, 2), (0.5, 2), (-0.3, 1)]
    cells = [(row(*[size] * n), row(*[0.0] * n)) for size, n in differences]
    weights = [size / n / 3 for size, n in differences for _ in range(n)]
    sums = [sum(s * w for s, w in zip(signs, weights, strict=True)) for signs in itertools.product((1, -1), repeat=5)]
    assert mean_difference(cells).p == np.mean([abs(total) >= sum(weights) - 1e-9 for total in sums])


def test_cells_without_a_common_seed_are_left_out():
    assert mean_difference([]) is None
    assert mean_difference([(row(1.0), {5: 1.0})]) is None
    found = mean_difference([(row(1.0), {5: 1.0}), (row(2.0), row(1.0))])
    assert (found.difference, found.cells, found.pairs, found.p) == (1.0, 1, 1, 1.0)


def test_many_differences_are_flipped_at_random_from_a_fixed_seed():
    generator = np.random.default_rng(3)
    cells = [(row(*generator.normal(0.35, 1, 10)), row(*np.zeros(10))) for _ in range(3)]
    found = mean_difference(cells)
    assert not found.exact
    assert found == mean_difference(cells)
    differences = [a[seed] for a, _ in cells for seed in a]
    # 30 differences of one weight: the normal approximation is good to a percent or so.
    z = sum(differences) / math.sqrt(sum(d * d for d in differences))
    assert found.p == pytest.approx(2 * stats.norm.sf(abs(z)), abs=0.01)
    assert 0.001 < found.p < 0.2
    far = mean_difference([(row(*np.full(EXACT_UP_TO + 4, 1.0)), row(*np.zeros(EXACT_UP_TO + 4)))])
    assert 0 < far.p < 0.001


def test_the_probability_of_improvement_is_mann_whitneys():
    a, b = [91.0, 92.0, 90.0, 91.0], [90.0, 91.0, 89.5]
    found = probability_of_improvement([(a, b)])
    assert found.probability == pytest.approx(stats.mannwhitneyu(a, b).statistic / 12)
    other = ([1.0, 2.0], [3.0])
    both = probability_of_improvement([(a, b), other, ([], [1.0])])
    assert both.probability == pytest.approx(found.probability / 2)
    assert probability_of_improvement([([], [1.0])]) is None


def test_its_interval_is_newcombes():
    # The ends fulfil the equation that defines them.
    for a, b in (([3.0, 1.0, 5.0, 6.0], [2.0, 0.0, 4.0]), ([3.0, 1.0, 5.0, 0.5], [2.0, 0.0, 4.0, 5.5])):
        found = probability_of_improvement([(a, b)])
        m, n = len(a), len(b)
        for edge in (found.low, found.high):
            star = (m + n) / 2 - 1
            variance = edge * (1 - edge) * (1 + star * ((1 - edge) / (2 - edge) + edge / (1 + edge))) / (m * n)
            assert abs(found.probability - edge) == pytest.approx(1.959964 * math.sqrt(variance), abs=1e-6)
        assert 0 < found.low < found.probability < found.high < 1
        turned = probability_of_improvement([(b, a)])
        assert (turned.low, turned.high) == pytest.approx((1 - found.high, 1 - found.low))


def test_three_wins_in_three_seeds_are_no_certainty():
    once = probability_of_improvement([([3.0, 4.0, 5.0], [0.0, 1.0, 2.0])])
    assert (once.probability, once.high) == (1, 1)
    assert once.low == pytest.approx(0.52, abs=0.05)
    often = probability_of_improvement([([3.0, 4.0, 5.0], [0.0, 1.0, 2.0])] * 8)
    assert once.low < often.low < 1


def test_the_interquartile_mean():
    cells = [[1.0, 2.0, 3.0], [10.0, 20.0, 30.0], [4.0, 5.0, 6.0]]
    found = interquartile_mean(cells)
    assert found.mean == pytest.approx(stats.trim_mean(np.concatenate(cells), 0.25))
    assert found.low < found.mean < found.high
    assert found == interquartile_mean(cells)
    still = interquartile_mean([[5.0, 5.0], [7.0, 7.0]])
    assert (still.low, still.mean, still.high) == (6.0, 6.0, 6.0)


def test_the_bootstrap_stays_within_its_cells_and_finds_the_standard_error():
    # Cells far apart: drawn across cells, the mean would swing by tens of points.
    far = interquartile_mean([[0.0, 0.1, 0.2], [50.0, 50.1, 50.2], [100.0, 100.1, 100.2]])
    assert far.high - far.low < 0.5
    points = np.random.default_rng(0).normal(0, 1, 400)
    found = interquartile_mean([points])
    # The trimmed mean's asymptotic standard error, from the winsorized variance.
    error = stats.mstats.trimmed_stde(points, limits=(0.25, 0.25))
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * error, rel=0.1)


def test_what_is_no_number_is_refused():
    for cells in ([], [[]], [[1.0, math.nan]]):
        with pytest.raises(DfkdError, match="finite numbers only"):
            interquartile_mean(cells)
