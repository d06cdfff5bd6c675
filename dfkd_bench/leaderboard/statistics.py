"""What a row of the leaderboard says of its seeds. Pure functions on plain numbers.

A *row* is one method as it was set, a mapping from seed to accuracy in percent. A *cell* is the rows that share
dataset, pair, preset and protocol. Whether rows of a cell differ is in `ties`, what several cells say together in
`across`. None of the three imports torch or scipy.stats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, variance

from scipy.special import chdtrc, ndtri, stdtrit  # scipy.stats has them too, but takes a second to import

from dfkd_bench.errors import DfkdError

__all__ = [
    "VARIANCES_DIFFER",
    "Binomial",
    "Points",
    "RowStatistics",
    "checked",
    "describe",
    "equal_variances_p",
    "oracle_premium",
    "pareto_front",
    "sampling_error",
]

#: A row's points: seed -> accuracy in percent.
Points = Mapping[int, float]

#: Below this p of `equal_variances_p` the rows of a cell keep their own variances. Far above 5 %: with three seeds a
#: test at 5 % overlooks most differences, and one's own variance costs only width (see `docs/statistics.md`).
VARIANCES_DIFFER = 0.25


@dataclass(frozen=True, slots=True)
class RowStatistics:
    """A row's mean and how well its seeds fix it.

    Attributes:
        points: the accuracies in the order of their seeds, in percent.
        mean: their mean; None without points.
        deviation: their standard deviation, the row's own; None below two points.
        pooled_deviation: the standard deviation pooled over the cell's rows; None if no row has two points.
        pooled: whether the interval rests on the pooled deviation.
        degrees: the degrees of freedom of the deviation that the interval rests on.
        half_width: half of Student's t interval of the mean, in points of percent; None if nothing gives a deviation.
    """

    points: tuple[float, ...]
    mean: float | None
    deviation: float | None
    pooled_deviation: float | None
    pooled: bool
    degrees: int
    half_width: float | None

    @property
    def n(self) -> int:
        """How many seeds the row has."""
        return len(self.points)


def describe(cell: Sequence[Points], level: float = 0.95) -> list[RowStatistics]:
    """Mean and interval of each row of one cell, in the cell's order.

    The seed variance is pooled over the rows, with sum(n_i - 1) degrees of freedom, unless `equal_variances_p` is below
    `VARIANCES_DIFFER`: then each row keeps its own, with n - 1. Where the variance is pooled, a row of one seed has an
    interval too. The caller leaves out of the cell what should not lend its variance (null baselines, references).

    Pooling takes the rows as independent. If a seed does much the same to all methods, the pooled interval is somewhat
    too narrow (measured: 88 to 94 % in place of 95 at an effect of twice the seeds' own deviation).

    Raises:
        DfkdError: an accuracy is not a finite number.
    """
    rows = [tuple(points[seed] for seed in sorted(points)) for points in map(checked, cell)]
    variances = [variance(row) if len(row) > 1 else None for row in rows]
    degrees = sum(len(row) - 1 for row in rows if row)
    pooled = sum((len(row) - 1) * own for row, own in zip(rows, variances, strict=True) if own is not None)
    pooled_deviation = math.sqrt(pooled / degrees) if degrees else None
    p = equal_variances_p(cell)
    pool = p is None or p >= VARIANCES_DIFFER
    found = []
    for row, own in zip(rows, variances, strict=True):
        deviation = None if own is None else math.sqrt(own)
        used, free = (pooled_deviation, degrees) if pool else (deviation, max(len(row) - 1, 0))
        half = None
        if row and used is not None:
            half = float(stdtrit(free, (1 + level) / 2)) * used / math.sqrt(len(row))
        found.append(RowStatistics(row, fmean(row) if row else None, deviation, pooled_deviation, pool, free, half))
    return found


def equal_variances_p(cell: Sequence[Points]) -> float | None:
    """P of Bartlett's test that all rows have one variance; None if fewer than two rows have two points.

    Bartlett's and not Levene's: with three seeds Levene's test about the median never sees a difference (each row has a
    deviation of exactly zero). That Bartlett's also answers to tails that are not normal errs on the careful side here.
    """
    rows = [list(points.values()) for points in map(checked, cell) if len(points) > 1]
    if len(rows) < 2:
        return None
    degrees = [len(row) - 1 for row in rows]
    variances = [variance(row) for row in rows]
    if max(variances) == 0:
        return 1.0
    if min(variances) == 0:
        return 0.0
    total = sum(degrees)
    pooled = sum(d * own for d, own in zip(degrees, variances, strict=True)) / total
    statistic = total * math.log(pooled) - sum(d * math.log(own) for d, own in zip(degrees, variances, strict=True))
    correction = 1 + (sum(1 / d for d in degrees) - 1 / total) / (3 * (len(rows) - 1))
    return float(chdtrc(len(rows) - 1, max(statistic, 0.0) / correction))


@dataclass(frozen=True, slots=True)
class Binomial:
    """Wilson's interval of an accuracy on a sample of images; all in percent."""

    low: float
    high: float

    @property
    def half_width(self) -> float:
        """Half of the interval, in points of percent."""
        return (self.high - self.low) / 2


def sampling_error(accuracy: float, images: int, level: float = 0.95) -> Binomial:
    """What the size of the test split alone leaves open: Wilson's binomial interval of an accuracy in percent.

    More seeds do not make it smaller. It is meant for one network's accuracy against that on all images there could be;
    two methods on the same images differ by less than this suggests. Unlike the normal approximation, which for 359
    images gives 1.6 points at 97.5 % and none at 100 %, it is right near 100 % (there 1.7 and 0.5).

    Raises:
        DfkdError: the accuracy is outside [0, 100] or there are no images.
    """
    if not 0 <= accuracy <= 100 or images < 1:
        raise DfkdError(f"no sampling error of {accuracy} % on {images} images: want 0 to 100 % and at least one image")
    share, z = accuracy / 100, float(ndtri((1 + level) / 2))
    grown = 1 + z * z / images
    center = (share + z * z / (2 * images)) / grown
    half = z * math.sqrt(share * (1 - share) / images + z * z / (4 * images * images)) / grown
    return Binomial(100 * max(center - half, 0.0), 100 * min(center + half, 1.0))


def oracle_premium(best: float | None, last: float | None) -> float | None:
    """The oracle's premium: what choosing the epoch on the test split would add to the last one, in points."""
    return None if best is None or last is None else best - last


def pareto_front(points: Sequence[tuple[float | None, float | None]]) -> list[int]:
    """The positions of the (cost, accuracy) points that no other point beats, cheapest first.

    A point beats another if it costs no more, is no less accurate, and is better in one of the two; equal points stand
    or fall together. A point without cost or accuracy, or with one that is not finite, is not on the front.
    """
    known = [
        (cost, -accuracy, at)
        for at, (cost, accuracy) in enumerate(points)
        if cost is not None and accuracy is not None and math.isfinite(cost) and math.isfinite(accuracy)
    ]
    front: list[tuple[float, float, int]] = []
    for point in sorted(known):
        if not front or point[1] < front[-1][1] or point[:2] == front[-1][:2]:
            front.append(point)
    return [at for _, _, at in front]


def checked(points: Points) -> Points:
    """The same points.

    Raises:
        DfkdError: an accuracy is not a finite number.
    """
    for seed, accuracy in points.items():
        if not math.isfinite(accuracy):
            raise DfkdError(f"the accuracy of seed {seed} is {accuracy}: leave out runs without a finite accuracy")
    return points
