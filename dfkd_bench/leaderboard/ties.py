"""Which rows of a cell differ: ranks with ties. Pure functions.

Two rows are told apart if both of these hold at the family-wise level, 5 % by default:

1. the test with the variance *pooled* over the cell, Holm-corrected over *all pairs* of rows;
2. the test with the pair's *own* variances (Welch's), Bonferroni-corrected over one row's comparisons, K - 1.

All pairs, since the best row is chosen by the same numbers: Holm over the comparisons with the best alone tells some
of 15 equal methods apart in one table of six. Both tests, since with unequal variances the pooled one alone errs in up
to one table of five, and no test of equal variances sees that with three seeds. Own variances alone, corrected over all
pairs, hold the level too. They tell more apart where variances differ, but less among many methods of like variance,
and they are not paired. `benchmarks/ties.py` measures this, `docs/statistics.md` has the numbers.

Both tests are paired by seed. Where all ranked rows have the same seeds, the variance is the residual one of the
additive model accuracy = method + seed: what a seed does to all methods alike is in none of their differences, and with
two rows this is the paired t test. Where the seeds differ the rows are taken as independent, which errs on the careful
side if seeds do act on all methods alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtr, stdtrit

from dfkd_bench.leaderboard.statistics import Points, checked

__all__ = ["FEWEST_SEEDS", "Ranking", "Standing", "holm", "rank", "smallest_difference"]

#: A row of fewer seeds is not ranked.
FEWEST_SEEDS = 3

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a row stands in its cell.

    Attributes:
        place: its rank, from 1; None below three seeds.
        tied: whether other rows share the place.
        difference: its mean minus the best row's, in points, never positive; with the same seeds that is the mean of
            the paired differences. None for the best row and for one that is not ranked.
        p: of that difference, corrected for the whole cell; None likewise.
    """

    place: int | None
    tied: bool = False
    difference: float | None = None
    p: float | None = None

    @property
    def label(self) -> str:
        """As the table prints it: `1`, `1=` or `not ranked`."""
        return "not ranked" if self.place is None else f"{self.place}{'=' if self.tied else ''}"


@dataclass(frozen=True, slots=True)
class Ranking:
    """The standings of a cell's rows, in the cell's order, and what they rest on.

    Attributes:
        standings: one per row.
        paired: whether all ranked rows have the same seeds, so that differences are taken seed by seed.
        deviation: the pooled standard deviation of the seeds, without what a seed does to all rows alike if paired;
            None with fewer than two ranked rows.
        smallest_difference: see the function of this name; None with fewer than two ranked rows.
    """

    standings: tuple[Standing, ...]
    paired: bool
    deviation: float | None
    smallest_difference: float | None


def rank(cell: Sequence[Points], level: float = 0.05) -> Ranking:
    """Rank the rows of one cell; rows that cannot be told from the best share its rank.

    The row with the highest mean opens the first group, and every row that cannot be told from it joins. The best of
    the others opens the next, and so on. A group's place is 1 plus the rows above it. So a place says that a row was
    told from the *first* row of each group above, not from every row there. With unequal variances a noisy row can
    share the place of the best although one with a higher mean does not: it could be as good.

    Args:
        cell: the rows. Null baselines and references are the caller's to leave out. Rows below three seeds are not
            ranked and do not count.
        level: the probability that at least one pair of equal methods is told apart.

    Raises:
        DfkdError: an accuracy is not a finite number.
    """
    ranked = [at for at, points in enumerate(map(checked, cell)) if len(points) >= FEWEST_SEEDS]
    standings = [Standing(place=None)] * len(cell)
    rows = [cell[at] for at in ranked]
    if len(rows) < 2:
        for at in ranked:
            standings[at] = Standing(place=1)
        return Ranking(tuple(standings), paired=False, deviation=None, smallest_difference=None)
    spread = _spread(rows)
    p = _adjusted(rows, spread)
    order = sorted(range(len(rows)), key=lambda row: (-spread.means[row], row))
    best = order[0]
    place, left = 1, order
    while left:
        group = [row for row in left if row == left[0] or p[left[0], row] > level]
        for row in group:
            other = row != best
            standings[ranked[row]] = Standing(
                place=place,
                tied=len(group) > 1,
                difference=float(spread.means[row] - spread.means[best]) if other else None,
                p=float(p[best, row]) if other else None,
            )
        place += len(group)
        left = [row for row in left if row not in group]
    deviation = math.sqrt(spread.pooled)
    least = smallest_difference(deviation, min(map(len, rows)), len(rows), paired=spread.paired, level=level)
    return Ranking(tuple(standings), spread.paired, deviation, least)


def smallest_difference(deviation: float, n: int, rows: int, *, paired: bool = True, level: float = 0.05) -> float:
    """The smallest difference of two rows' means, in points, that is sure to tell them apart (the critical difference).

    A true difference of this size is found in about half of all tables; a smaller observed one may still be told apart
    where many other pairs are (Holm steps down).

    Args:
        deviation: the pooled standard deviation of the seeds (`Ranking.deviation`), taken as each row's own.
        n: seeds per row, at least two.
        rows: ranked rows in the cell, at least two.
        paired: whether the rows have the same seeds.
        level: the family-wise level.
    """
    own = _own_degrees(n, rows, paired)
    pooled = own * rows
    pairs = rows * (rows - 1) / 2
    quantiles = stdtrit(pooled, 1 - level / 2 / pairs), stdtrit(2 * own, 1 - level / 2 / (rows - 1))
    return float(max(quantiles)) * deviation * math.sqrt(2 / n)


def holm(p: Floats) -> Floats:
    """Holm's step-down correction of p values, in their order."""
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    corrected = np.empty_like(stepped)
    corrected[order] = np.minimum(stepped, 1.0)
    return corrected


@dataclass(frozen=True, slots=True)
class _Spread:
    """Means and variances of the rows: each row's own with its degrees of freedom, and the pooled one."""

    means: Floats
    counts: Floats
    own: Floats
    own_degrees: Floats
    pooled: float
    pooled_degrees: float
    paired: bool


def _own_degrees(n: float, rows: int, paired: bool) -> float:
    # The residuals of the additive model have (K - 1)(n - 1) degrees of freedom in all, shared alike by the K rows.
    return (n - 1) * (rows - 1) / rows if paired else n - 1


def _spread(rows: Sequence[Points]) -> _Spread:
    counts = np.array([len(points) for points in rows], dtype=float)
    means = np.array([np.mean(list(points.values())) for points in rows])
    seeds = set(rows[0])
    paired = all(set(points) == seeds for points in rows)
    if paired:
        accuracies = np.array([[points[seed] for seed in sorted(seeds)] for points in rows])
        residuals = accuracies - means[:, None] - accuracies.mean(0) + accuracies.mean()
        squares = (residuals**2).sum(1)
    else:
        squares = np.array([np.var(list(points.values())) * len(points) for points in rows])
    degrees = np.array([_own_degrees(n, len(rows), paired) for n in counts])
    squares[squares < 1e-18] = 0  # rounding
    pooled = float(squares.sum() / degrees.sum())
    return _Spread(means, counts, squares / degrees, degrees, pooled, float(degrees.sum()), paired)


def _adjusted(rows: Sequence[Points], spread: _Spread) -> Floats:
    """P of each pair of rows, corrected for the cell: [rows, rows], symmetric, ones on the diagonal."""
    first, second = np.triu_indices(len(rows), 1)
    differences = spread.means[first] - spread.means[second]
    shares = 1 / spread.counts
    pooled = _t_test(differences, spread.pooled * (shares[first] + shares[second]), spread.pooled_degrees)
    parts = spread.own * shares
    variances = parts[first] + parts[second]
    satterthwaite = parts**2 / spread.own_degrees
    sums = satterthwaite[first] + satterthwaite[second]
    degrees = np.divide(variances**2, sums, out=np.ones_like(sums), where=sums > 0)
    own = _t_test(differences, variances, degrees)
    table = np.ones((len(rows), len(rows)))
    table[first, second] = np.maximum(holm(pooled), np.minimum(own * (len(rows) - 1), 1.0))
    table[second, first] = table[first, second]
    return table


def _t_test(differences: Floats, variances: Floats, degrees: Floats | float) -> Floats:
    """Two-sided p; without any variance, 0 where there is a difference and 1 where there is none."""
    sizes = np.where(np.abs(differences) < 1e-9, 0.0, np.abs(differences))  # rounding
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(sizes > 0, sizes / np.sqrt(variances), 0.0)
    return np.asarray(2 * stdtr(degrees, -t), dtype=float)
