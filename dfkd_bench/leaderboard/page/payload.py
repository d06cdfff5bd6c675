"""The leaderboard as plain data for the page's script: what its dialogs and charts show. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dfkd_bench.errors import DfkdError
from dfkd_bench.leaderboard import view
from dfkd_bench.leaderboard.claims import Comparison
from dfkd_bench.leaderboard.model import PHASES, Cell, Row, Run, Table
from dfkd_bench.leaderboard.page.pictures import Picture
from dfkd_bench.leaderboard.text import plain
from dfkd_bench.results.curves import CURVE_FILE, read_curve
from dfkd_bench.results.records import Environment

__all__ = ["payload", "sort_keys"]

#: A page of more rows shows the first of each cell until all are asked for: so many are sorted in 0.13 seconds.
MOST_ROWS = 160
#: So many of each cell are shown all the same.
FEWEST_ROWS = 10

#: A curve of more epochs is thinned to about so many points.
_POINTS = 120


def payload(table: Table, root: Path, picture: Picture, report: Callable[[str], None]) -> dict[str, Any]:
    """Everything the script needs, as plain data: numbers unrounded but in curves, texts of one printable line.

    Args:
        table: the leaderboard.
        root: the results folder, where the curves lie.
        picture: gives the address of a run's picture.
        report: called with a sentence for each curve or picture that cannot be shown.
    """
    environments: dict[str, int] = {}
    rows = [
        _row(row, at, _Files(root, picture, report), environments)
        for at, cell in enumerate(table.cells)
        for row in cell.rows
    ]
    return {
        "cells": [_cell(cell) for cell in table.cells],
        "rows": rows,
        "environments": [json.loads(text) for text in environments],
        "phases": PHASES,
        "most_rows": MOST_ROWS,
        "fewest_rows": FEWEST_ROWS,
    }


def sort_keys(row: Row) -> list[float | str | None]:
    """What a row is sorted by in each of `view.COLUMNS`; None comes last whatever the direction."""
    found, images, costs = row.statistics, row.images, row.costs
    claim = row.claim
    return [
        row.standing.place if row.kind == "method" else None,
        plain(row.label).casefold(),
        row.prior,
        found.n,
        row.mean,
        found.deviation,
        row.oracle_premium,
        None if claim is None else claim.claim.top1,
        row.agreement,
        images.synthesized if images else None,
        costs.distillation_samples if costs else None,
        costs.flops if costs else None,
        costs.seconds if costs else None,
        costs.peak_memory if costs else None,
    ]


def _cell(cell: Cell) -> dict[str, Any]:
    key = cell.key
    sources = {source for row in cell.rows for source in row.teacher_sources}
    return {
        "title": view.title(key, cell.teacher_accuracy),
        "dataset": plain(key.dataset),
        "pair": plain(key.pair),
        "preset": plain(key.preset),
        "teacher": {
            "network": plain(key.teacher),
            "accuracy": cell.teacher_accuracy,
            "came from": plain("; ".join(sorted(sources))) or "unknown",
            "weights (SHA-256)": key.teacher_sha256 or "unknown",
            "test split (SHA-256)": key.test_split or "unknown",
        },
    }


class _Files:
    """Reads what lies beside a record."""

    def __init__(self, root: Path, picture: Picture, report: Callable[[str], None]) -> None:
        self._root, self._picture, self._report = root, picture, report

    def curve(self, run: Run) -> list[list[float]]:
        """`[epoch, accuracy]` after each epoch, thinned."""
        if run.curve_sha256 is None:
            return []
        try:
            points = read_curve(self._root / run.folder / CURVE_FILE, run.curve_sha256)
        except DfkdError as error:
            self._report(str(error))
            return []
        step = max(1, len(points) // _POINTS)
        kept = [point for at, point in enumerate(points) if at % step == 0 or at == len(points) - 1]
        return [[point.epoch, round(point.accuracy, 2)] for point in kept]

    def picture(self, run: Run) -> str | None:
        try:
            return self._picture(run)
        except DfkdError as error:
            self._report(str(error))
            return None


def _row(row: Row, cell: int, files: _Files, environments: dict[str, int]) -> dict[str, Any]:
    costs = row.costs
    return {
        "id": row.id,
        "cell": cell,
        "label": plain(row.label),
        "kind": row.kind,
        "prior": row.prior,
        "sort": sort_keys(row),
        "mean": row.mean,
        "half": row.half_width,
        "costs": None
        if costs is None
        else {"flops": costs.flops, "samples": costs.distillation_samples, "seconds": costs.seconds},
        "flops": {} if costs is None else costs.flops_by_phase,
        "seconds": {} if costs is None else costs.seconds_by_phase,
        "settings": row.settings,
        "changed": row.changed,
        "spec": row.spec.model_dump_json(indent=1),
        "code": {plain(name): plain(version) for name, version in row.code.items()},
        "environments": [environments.setdefault(_environment(found), len(environments)) for found in row.environments],
        "claims": [_claim(found) for found in row.comparisons],
        "runs": [_run(run, files) for run in row.runs],
    }


def _run(run: Run, files: _Files) -> dict[str, Any]:
    return {
        "run": run.run,
        "seed": run.seed,
        "status": run.status,
        "reason": None if run.reason is None else plain(run.reason),
        "accuracy": run.accuracy,
        "oracle": run.oracle_best,
        "agreement": run.agreement,
        "seconds": run.seconds,
        "hardware": plain(run.hardware),
        "finished": run.finished.isoformat(timespec="seconds"),
        "folder": plain(run.folder),
        "curve": files.curve(run),
        "picture": files.picture(run),
    }


def _environment(found: Environment) -> str:
    texts = {
        "device": found.device,
        "hardware": found.hardware,
        "precision": found.precision,
        "compiled": "yes" if found.compiled else "no",
        "threads": str(found.threads),
        "platform": found.platform,
        **found.versions,
        **found.plugins,
    }
    return json.dumps({plain(name): plain(text) for name, text in texts.items()})


def _claim(found: Comparison) -> dict[str, Any]:
    claim = found.claim
    return {
        "method": plain(claim.method),
        "top1": claim.top1,
        "gap": found.gap,
        "verdict": found.verdict,
        "teacher": found.teacher_claimed,
        "grade": claim.grade,
        "source": plain(claim.source),
        "notes": plain(claim.notes),
    }
