"""Cells -> methods over several cells: a summary for each preset and protocol. The statistics are `across`'s."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from dfkd_bench.leaderboard.across import Middle, interquartile_mean, mean_difference, probability_of_improvement
from dfkd_bench.leaderboard.model import Across, AcrossMethod, AcrossPair, Cell, Row
from dfkd_bench.leaderboard.ties import holm

__all__ = ["summarize"]


def summarize(cells: Iterable[Cell]) -> tuple[Across, ...]:
    """A summary for each preset and protocol in which at least two methods share at least two cells."""
    groups: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    for cell in cells:
        groups[cell.key.preset, cell.key.protocol].append(cell)
    found = (_across(group) for group in groups.values() if len(group) > 1)
    return tuple(across for across in found if across is not None)


def _across(cells: Sequence[Cell]) -> Across | None:
    by_cell = [_single(cell) for cell in cells]
    counts: dict[str, int] = defaultdict(int)
    for rows in by_cell:
        for method in rows:
            counts[method] += 1
    names = sorted(method for method, count in counts.items() if count > 1)
    shared = [rows for rows in by_cell if all(name in rows for name in names)]
    methods = [AcrossMethod(name, counts[name], _middle([rows[name] for rows in shared])) for name in names]
    methods.sort(key=lambda found: -found.middle.mean if found.middle else 0.0)
    pairs = _pairs([found.method for found in methods], by_cell)
    if not pairs:
        return None
    key = cells[0].key
    used = tuple(cell.key for cell, rows in zip(cells, by_cell, strict=True) if sum(name in rows for name in names) > 1)
    return Across(key.preset, key.protocol, used, len(shared), tuple(methods), pairs)


def _single(cell: Cell) -> dict[str, Row]:
    """The methods that have one row in the cell, and that one has an accuracy."""
    rows: dict[str, list[Row]] = defaultdict(list)
    for row in cell.of_kind("method"):
        rows[row.method].append(row)
    return {method: found[0] for method, found in rows.items() if len(found) == 1 and found[0].finished}


def _pairs(names: Sequence[str], by_cell: Sequence[dict[str, Row]]) -> tuple[AcrossPair, ...]:
    found = []
    for a, b in itertools.combinations(names, 2):
        both = [(_by_seed(rows[a]), _by_seed(rows[b])) for rows in by_cell if a in rows and b in rows]
        difference = mean_difference(both)
        improvement = probability_of_improvement([(list(x.values()), list(y.values())) for x, y in both])
        if difference is not None and difference.cells > 1 and improvement is not None:
            found.append((a, b, difference, improvement))
    corrected = holm(np.array([difference.p for _, _, difference, _ in found]))
    return tuple(AcrossPair(a, b, d, float(p), i) for (a, b, d, i), p in zip(found, corrected, strict=True))


def _by_seed(row: Row) -> dict[int, float]:
    return {run.seed: run.accuracy for run in row.runs if run.accuracy is not None}


def _middle(rows: Sequence[Row]) -> Middle | None:
    """Of accuracies as percentages of the teacher's: cells of other datasets lie on one scale only so."""
    shares = []
    for row in rows:
        if not row.teacher_accuracy:
            return None
        shares.append([100 * point / row.teacher_accuracy for point in row.statistics.points])
    return interquartile_mean(shares) if shares else None
