"""Two methods over several cells, and one method's middle. Pure functions; imports neither torch nor scipy.stats.

A cell is a dataset, pair, preset and protocol. Cells are strata: what is shuffled or drawn again stays in its cell.
So a p or an interval speaks of other seeds in *these* cells; it does not say how the methods would compare on other
datasets or networks. A difference and a P(A > B) weigh each cell the same, whatever its number of seeds.

What is drawn at random is drawn from a fixed seed: the same numbers give the same answer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from dfkd_bench.errors import DfkdError
from dfkd_bench.leaderboard.statistics import Points, checked

__all__ = [
    "EXACT_UP_TO",
    "Difference",
    "Improvement",
    "Middle",
    "interquartile_mean",
    "mean_difference",
    "paired_differences",
    "probability_of_improvement",
]

Floats = NDArray[np.float64]

#: Up to so many differences all sign flips are tried, 2**16 of them.
EXACT_UP_TO = 16
_DRAWS = 20_000
_SEED = 20_250_101


@dataclass(frozen=True, slots=True)
class Difference:
    """Method A against method B over cells.

    Attributes:
        difference: A minus B in points: the mean over the cells of the cell's mean paired difference.
        p: of the stratified sign-flip test, two-sided.
        exact: whether all sign flips were tried; if not, 20,000 were drawn.
        cells: in how many cells both have a seed in common.
        pairs: how many differences there are in all.
    """

    difference: float
    p: float
    exact: bool
    cells: int
    pairs: int


@dataclass(frozen=True, slots=True)
class Improvement:
    """P(A > B): how probably a run of A beats one of B in the same cell, with its interval; all in [0, 1]."""

    probability: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Middle:
    """An interquartile mean with its interval, in the unit of the points."""

    mean: float
    low: float
    high: float


def paired_differences(a: Points, b: Points) -> list[float]:
    """A minus B for each seed that both have, in the order of the seeds."""
    return [a[seed] - b[seed] for seed in sorted(checked(a).keys() & checked(b).keys())]


def mean_difference(cells: Sequence[tuple[Points, Points]]) -> Difference | None:
    """Mean paired difference of A and B over cells, with a sign-flip p stratified by cell; None without common seeds.

    If the two methods are alike in each of these cells, each paired difference is as likely to have the other sign.
    The p is the share of sign patterns that give a mean at least as far from zero. It cannot be below 2 / 2**pairs:
    with fewer than six pairs it never reaches 5 %.

    Args:
        cells: A's and B's points in each cell.

    Raises:
        DfkdError: an accuracy is not a finite number.
    """
    strata = [found for a, b in cells if (found := paired_differences(a, b))]
    if not strata:
        return None
    weighted = np.array([d / len(stratum) / len(strata) for stratum in strata for d in stratum])
    observed = float(weighted.sum())
    exact = len(weighted) <= EXACT_UP_TO
    if exact:
        patterns = np.arange(2 ** len(weighted))[:, None] >> np.arange(len(weighted)) & 1
        p = _as_far(patterns, weighted, observed) / len(patterns)
    else:
        generator = np.random.default_rng(_SEED)
        draws = (_flips(generator, 1000, len(weighted)) for _ in range(_DRAWS // 1000))
        # The observed pattern is one of the draws, so that the p is never zero and never too small.
        p = (1 + sum(_as_far(draw, weighted, observed) for draw in draws)) / (1 + _DRAWS)
    return Difference(observed, p, exact, len(strata), len(weighted))


def probability_of_improvement(
    cells: Sequence[tuple[Sequence[float], Sequence[float]]], level: float = 0.95
) -> Improvement | None:
    """P(A > B) as rliable defines it: the mean over cells of the share of run pairs in which A wins; a draw is half.

    The interval is the score interval of Newcombe for the area under the curve (his method 5, Statistics in Medicine
    25, 2006), with the variance averaged over the cells. Not rliable's bootstrap: where A wins every
    pair, as three seeds of one cell often have it, the bootstrap's interval is [1, 1].

    Args:
        cells: A's and B's accuracies in each cell; a cell where either has none is left out.
        level: of the interval.

    Returns:
        None if no cell is left.
    """
    strata = [(np.asarray(a, float), np.asarray(b, float)) for a, b in cells if len(a) and len(b)]
    if not strata:
        return None
    shares = [float((np.sign(a[:, None] - b[None, :]) + 1).mean() / 2) for a, b in strata]
    probability = sum(shares) / len(shares)
    sizes = [(len(a), len(b)) for a, b in strata]
    z = float(ndtri((1 + level) / 2))

    def outside(theta: float) -> bool:
        return abs(probability - theta) > z * math.sqrt(_variance(theta, sizes))

    return Improvement(probability, _edge(probability, 0.0, outside), _edge(probability, 1.0, outside))


def interquartile_mean(cells: Sequence[Sequence[float]], level: float = 0.95, draws: int = 2000) -> Middle:
    """The mean of the middle half of all runs of all cells, with a stratified bootstrap interval, as rliable has it.

    The lowest and the highest quarter of the runs (rounded down) are left out. The interval is the percentile interval
    over `draws` samples, each of which draws every cell's runs again with replacement. With three seeds it is too
    narrow: a sample of three has too small a spread. Every run weighs the same. Cells whose accuracies lie on different
    scales are the caller's to bring onto one (for example as a share of the teacher's accuracy).

    Raises:
        DfkdError: there is no run, or one that is not a finite number.
    """
    strata = [np.asarray(cell, float) for cell in cells if len(cell)]
    if not strata or not all(np.isfinite(cell).all() for cell in strata):
        raise DfkdError("an interquartile mean wants at least one run, and finite numbers only: leave out failed runs")
    generator = np.random.default_rng(_SEED)
    drawn = [cell[generator.integers(0, len(cell), (draws, len(cell)))] for cell in strata]
    means = _trimmed(np.concatenate(drawn, axis=1))
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return Middle(float(_trimmed(np.concatenate(strata)[None, :])[0]), float(low), float(high))


def _flips(generator: np.random.Generator, draws: int, signs: int) -> NDArray[np.uint8]:
    """Random bits: [draws, signs]. Eight of each byte: an integer for each takes ten times as long."""
    drawn = generator.integers(0, 256, (draws, -(-signs // 8)), dtype=np.uint8)
    return np.unpackbits(drawn, axis=1, count=signs)


def _as_far(flips: NDArray[np.uint8] | NDArray[np.int64], weighted: Floats, observed: float) -> int:
    """How many of the patterns, ones where a sign is turned, give a sum as far from zero as the one observed."""
    sums = observed - 2 * (flips.astype(np.float64) @ weighted)
    # A hair less than observed still counts: the same sum in another order differs in its last digits.
    return int((np.abs(sums) >= abs(observed) - 1e-9).sum())


def _variance(theta: float, sizes: Sequence[tuple[int, int]]) -> float:
    """Variance of the mean over cells of Mann-Whitney shares that are all `theta`, for exponential scores."""
    total = 0.0
    for m, n in sizes:
        star = (m + n) / 2 - 1
        total += theta * (1 - theta) * (1 + star * ((1 - theta) / (2 - theta) + theta / (1 + theta))) / (m * n)
    return total / len(sizes) ** 2


def _edge(inside: float, end: float, outside: Callable[[float], bool]) -> float:
    """Where between `inside` and `end` the interval ends, by bisection."""
    if not outside(end):
        return end
    for _ in range(60):
        middle = (inside + end) / 2
        inside, end = (inside, middle) if outside(middle) else (middle, end)
    return inside


def _trimmed(rows: Floats) -> Floats:
    """The mean of each row's middle half: [R, N] -> [R]."""
    cut = rows.shape[1] // 4
    return np.asarray(np.sort(rows, axis=1)[:, cut : rows.shape[1] - cut].mean(axis=1))
