"""Error and power of the leaderboard's ties where the truth is known: `python benchmarks/ties.py [--repeats 1000]`.

For 3, 5 and 10 seeds and 5, 10 and 15 methods, prints three tables. Nothing here is asserted in a test.

1. How often a table tells any two equal methods apart, in percent, for our rule and for those that it replaced.
2. How often two methods that differ are told apart, in percent, for the same rules.
3. How often a row's 95 % interval holds its true mean: the pooled variance, the row's own, and `describe`'s choice.

Accuracies are normal with a standard deviation of 1 where nothing else is said. The rules:

* `best`: Holm over the comparisons with the best row, the variance pooled;
* `pooled`: Holm over all pairs, the variance pooled (the additive model's residual variance);
* `levene`: as `pooled`, or as `own` where the Brown-Forsythe test says at 5 % that the variances differ;
* `own`: Holm over all pairs, each pair with its own variances (Welch);
* `ours`: `rank` of `dfkd_bench.leaderboard.ties`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import fdtrc, stdtr, stdtrit

from dfkd_bench.leaderboard.statistics import describe
from dfkd_bench.leaderboard.ties import holm, rank

Floats = NDArray[np.float64]
Told = Callable[[Floats], NDArray[np.bool_]]
LEVEL = 0.05


@dataclass(frozen=True)
class World:
    """The truth: each method's mean and standard deviation, what seeds do to all methods alike, and the tails."""

    means: Floats
    deviations: Floats
    seed_effect: float = 0.0
    degrees: float | None = None

    def table(self, seeds: int, generator: np.random.Generator) -> Floats:
        shape = (len(self.means), seeds)
        noise = generator.standard_normal(shape)
        if self.degrees is not None:
            noise = generator.standard_t(self.degrees, shape) / np.sqrt(self.degrees / (self.degrees - 2))
        shared = self.seed_effect * generator.standard_normal(seeds)
        return np.asarray(self.means[:, None] + self.deviations[:, None] * noise + shared)


def worlds(rows: int) -> dict[str, World]:
    same, one = np.zeros(rows), np.ones(rows)
    first = np.eye(rows)[0]
    half = (np.arange(rows) < rows // 2).astype(float)
    return {
        "equal": World(same, one),
        "equal, seeds act on all alike (sd 2)": World(same, one, seed_effect=2.0),
        "equal, heavy tails (t, 4 degrees)": World(same, one, degrees=4.0),
        "half of the methods with sd 3": World(same, 1 + 2 * half),
        "one method with sd 4": World(same, 1 + 3 * first),
        "sd from 0.3 to 3": World(same, np.geomspace(0.3, 3, rows)),
        "one better by 1 sd": World(first, one),
        "one better by 3 sd": World(3 * first, one),
        "one better by 3, sd from 0.3 to 3": World(3 * first, np.geomspace(0.3, 3, rows)),
        "each better than the next by 2 sd": World(2.0 * np.arange(rows), one),
    }


def pairs(rows: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    return np.triu_indices(rows, 1)


def p_pooled(table: Floats) -> Floats:
    rows, seeds = table.shape
    first, second = pairs(rows)
    means = table.mean(1)
    residuals = table - means[:, None] - table.mean(0) + table.mean()
    degrees = (rows - 1) * (seeds - 1)
    error = np.sqrt(2 * (residuals**2).sum() / degrees / seeds)
    return np.asarray(2 * stdtr(degrees, -np.abs(means[first] - means[second]) / error))


def p_own(table: Floats) -> Floats:
    first, second = pairs(len(table))
    seeds = table.shape[1]
    means, errors = table.mean(1), table.var(1, ddof=1) / seeds
    both = errors[first] + errors[second]
    degrees = both**2 / (errors[first] ** 2 + errors[second] ** 2) * (seeds - 1)
    return np.asarray(2 * stdtr(degrees, -np.abs(means[first] - means[second]) / np.sqrt(both)))


def variances_differ(table: Floats) -> bool:
    """The Brown-Forsythe test (Levene's about the median) at 5 %."""
    rows, seeds = table.shape
    away = np.abs(table - np.median(table, axis=1, keepdims=True))
    means = away.mean(1)
    between = seeds * ((means - means.mean()) ** 2).sum() / (rows - 1)
    within = ((away - means[:, None]) ** 2).sum() / (rows * (seeds - 1))
    return bool(fdtrc(rows - 1, rows * (seeds - 1), between / within) < LEVEL)


def best(table: Floats) -> NDArray[np.bool_]:
    first, second = pairs(len(table))
    of_best = (first == table.mean(1).argmax()) | (second == table.mean(1).argmax())
    told = np.zeros(len(first), bool)
    told[of_best] = holm(p_pooled(table)[of_best]) <= LEVEL
    return told


def pooled(table: Floats) -> NDArray[np.bool_]:
    return holm(p_pooled(table)) <= LEVEL


def own(table: Floats) -> NDArray[np.bool_]:
    return holm(p_own(table)) <= LEVEL


def levene(table: Floats) -> NDArray[np.bool_]:
    return own(table) if variances_differ(table) else pooled(table)


def ours(table: Floats) -> NDArray[np.bool_]:
    """What the ranks say: a row was told from the first row of each group above its own."""
    places = np.array([standing.place for standing in rank(cell_of(table)).standings])
    means = table.mean(1)
    leaders = {place: means[places == place].max() for place in set(places)}
    first, second = pairs(len(table))
    above = np.where(places[first] < places[second], first, second)
    leads = means == [leaders[place] for place in places]
    return np.asarray((places[first] != places[second]) & leads[above])


RULES: dict[str, Told] = {"best": best, "pooled": pooled, "levene": levene, "own": own, "ours": ours}


INTERVALS = ("pooled", "levene", "own", "ours")


def cell_of(table: Floats) -> list[dict[int, float]]:
    return [dict(enumerate(map(float, points))) for points in table]


def judge(world: World, seeds: int, repeats: int, generator: np.random.Generator) -> dict[str, tuple[float, float]]:
    """For each rule the share of tables that err, and the share of differing pairs told apart; NaN if there are none.

    Power counts the pairs with the true best row only, which all rules compare.
    """
    first, second = pairs(len(world.means))
    equal = world.means[first] == world.means[second]
    top = world.means.argmax()
    differing = ~equal & ((first == top) | (second == top))
    errors, power = dict.fromkeys(RULES, 0.0), dict.fromkeys(RULES, 0.0)
    for _ in range(repeats):
        table = world.table(seeds, generator)
        for name, rule in RULES.items():
            told = rule(table)
            errors[name] += bool((told & equal).any())
            power[name] += told[differing].mean() if differing.any() else np.nan
    return {name: (errors[name] / repeats, power[name] / repeats) for name in RULES}


def half_widths(table: Floats) -> dict[str, Floats]:
    rows, seeds = table.shape
    own = table.std(1, ddof=1)
    shared = np.full(rows, np.sqrt((own**2).mean()))
    pooled = stdtrit(rows * (seeds - 1), 1 - LEVEL / 2) * shared / np.sqrt(seeds)
    alone = stdtrit(seeds - 1, 1 - LEVEL / 2) * own / np.sqrt(seeds)
    described = np.array([row.half_width for row in describe(cell_of(table))])
    return {"pooled": pooled, "levene": alone if variances_differ(table) else pooled, "own": alone, "ours": described}


def coverage(world: World, seeds: int, repeats: int, generator: np.random.Generator) -> dict[str, Floats]:
    """For each kind of interval the share of tables in which it holds the true mean, by row."""
    held = {name: np.zeros(len(world.means)) for name in INTERVALS}
    for _ in range(repeats):
        table = world.table(seeds, generator)
        away = np.abs(table.mean(1) - world.means)
        for name, widths in half_widths(table).items():
            held[name] += away <= widths
    return {name: count / repeats for name, count in held.items()}


def line(name: str, cells: Iterable[object]) -> None:
    print(f"{name:38}" + "".join(f"{cell!s:>9}" for cell in cells), flush=True)


def percent(share: float) -> str:
    return "-" if np.isnan(share) else f"{100 * share:.1f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=1000)
    asked = parser.parse_args(arguments)
    generator = np.random.default_rng(0)
    settings = [(seeds, rows) for seeds in (3, 5, 10) for rows in (5, 10, 15)]
    found = {
        (seeds, rows, name): judge(world, seeds, asked.repeats, generator)
        for seeds, rows in settings
        for name, world in worlds(rows).items()
    }
    within = 196 * (LEVEL * (1 - LEVEL) / asked.repeats) ** 0.5
    print(f"{asked.repeats} tables each; a share of 5 % is known to within {within:.1f} points")
    for at, title in enumerate(("equal methods told apart, % of tables", "told from the best, % of worse methods")):
        for seeds, rows in settings:
            print()
            line(f"{seeds} seeds, {rows} methods", RULES)
            print(title)
            for name in worlds(rows):
                shares = [result[at] for result in found[seeds, rows, name].values()]
                if not all(map(np.isnan, shares)) and not (at == 0 and name.startswith("each")):
                    line(f"  {name}", map(percent, shares))
    for seeds, rows in settings:
        print()
        line(f"{seeds} seeds, {rows} methods", INTERVALS)
        print("95 % intervals that hold the true mean, %: all rows, worst row")
        for name, world in worlds(rows).items():
            if "better" not in name:
                held = coverage(world, seeds, asked.repeats, generator)
                line(f"  {name}", (f"{100 * by_row.mean():.0f}, {100 * by_row.min():.0f}" for by_row in held.values()))


if __name__ == "__main__":
    main()
