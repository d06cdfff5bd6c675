"""Figures of the leaderboard for a paper: PDF, SVG and PNG, the same bytes for the same records. Needs matplotlib."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfkd_bench.errors import DfkdError
from dfkd_bench.files import replacing, writable_folder
from dfkd_bench.leaderboard.model import Cell, CellKey, Row, Table
from dfkd_bench.leaderboard.statistics import pareto_front
from dfkd_bench.leaderboard.text import amount, plain
from dfkd_bench.results.curves import CURVE_FILE, read_curve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["drawing", "save", "write_figures"]

#: Colors that the color-blind can tell apart (Okabe and Ito).
_COLORS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#d55e00", "#56b4e9", "#000000")
_MARKERS = {"method": ("o", "#0072b2"), "null": ("s", "#e69f00"), "reference": ("^", "#009e73")}
_LINES = ("-", "--", ":")
_METADATA: dict[str, dict[str, Any]] = {
    "pdf": {"CreationDate": None},
    "svg": {"Date": None},
    "png": {"Software": None},
}


def write_figures(table: Table, root: Path, out: Path, report: Callable[[str], None]) -> list[Path]:
    """Draw what the table has data for, and write each figure in three formats.

    Args:
        table: the leaderboard.
        root: the results folder, where the curves lie.
        out: the folder to write to; made if it is not there.
        report: called with a sentence for each curve that cannot be read.

    Raises:
        DfkdError: matplotlib is not installed, or the folder cannot be written.
    """
    with drawing(out):
        return [path for name, figure in _figures(table, root, report) for path in save(figure, out, name)]


@contextmanager
def drawing(out: Path) -> Iterator[None]:
    """Inside, figures are drawn in our style and `out` can be written.

    Raises:
        DfkdError: matplotlib is not installed, or the folder cannot be written.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise DfkdError("figures need matplotlib: pip install dfkd-bench[figures]") from error
    writable_folder(out, "figures'")
    style: Any = {"svg.hashsalt": "dfkd-bench", "font.size": 8, "pdf.fonttype": 42, "text.parse_math": False}
    with mpl.rc_context(style):
        yield


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Write a figure in each format."""
    written = []
    for kind, metadata in _METADATA.items():
        path = out / f"{name}.{kind}"
        with replacing(path) as temporary:
            figure.savefig(temporary, format=kind, metadata=metadata, dpi=200)
        written.append(path)
    return written


def _figures(table: Table, root: Path, report: Callable[[str], None]) -> Iterator[tuple[str, Figure]]:
    for at, cell in enumerate(table.cells, 1):
        rows = [row for row in cell.rows if row.mean is not None and row.costs is not None]
        if rows:
            yield f"cost-{at}-{_name(cell.key)}", _cost(cell, rows)
        curves = [(row, found) for row in rows if (found := _curves(row, root, report))]
        if curves:
            yield f"curves-{at}-{_name(cell.key)}", _curve_figure(cell, curves)
    if len(table.cells) > 1:
        yield "methods-by-cell", _heat(table)
    claimed = [row for _, row in table.rows() if row.mean is not None and row.claim is not None]
    if claimed:
        yield "claims", _claims(claimed)


def _name(key: CellKey) -> str:
    text = "-".join((key.dataset, key.teacher, key.student, key.preset, key.protocol))
    return re.sub(r"[^a-z0-9]+", "-", plain(text, 80).lower()).strip("-")


def _figure(width: float, height: float) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _title(key: CellKey) -> str:
    return plain(f"{key.dataset}, {key.pair}, {key.preset}, {key.protocol} budget", 80)


def _cost(cell: Cell, rows: list[Row]) -> Figure:
    figure, axes = _figure(5.5, 3.4)
    points = [(row.costs.flops if row.costs else None, row.mean) for row in rows]
    for kind, (marker, color) in _MARKERS.items():
        own = [(row, point) for row, point in zip(rows, points, strict=True) if row.kind == kind]
        if own:
            axes.errorbar(
                [point[0] for _, point in own],
                [point[1] for _, point in own],
                yerr=[row.half_width or 0.0 for row, _ in own],
                fmt=marker,
                color=color,
                markersize=4.5,
                elinewidth=0.8,
                label={"method": "method", "null": "null baseline", "reference": "reference, not data-free"}[kind],
            )
    compared = [point for row, point in zip(rows, points, strict=True) if row.kind != "reference"]
    front = [compared[at] for at in pareto_front(compared)]
    if front:
        front.append((max(cost or 0.0 for cost, _ in points), front[-1][1]))
        axes.step(
            *zip(*front, strict=True), where="post", color="#0072b2", alpha=0.6, linewidth=1, label="Pareto front"
        )
    if min(cost or 0.0 for cost, _ in points) > 0:
        axes.set_xscale("log")
    axes.xaxis.set_major_formatter(lambda value, _: amount(value))
    axes.xaxis.set_minor_formatter(lambda value, _: "")
    axes.set(xlabel="counted FLOP per run", ylabel="test accuracy, %", title=_title(cell.key))
    axes.legend(frameon=False, fontsize=7)
    pairs = zip(rows, points, strict=True)
    _label(figure, axes, [(plain(row.label, 24), cost or 0.0, mean or 0.0) for row, (cost, mean) in pairs])
    return figure


def _label(figure: Figure, axes: Any, labels: list[tuple[str, float, float]]) -> None:
    """Name each point: beside it where there is room, else farther off at the end of a thin line."""
    figure.draw_without_rendering()  # positions are known after the layout
    scale = 72 / figure.dpi
    spots = [tuple(axes.transData.transform((x, y)) * scale) for _, x, y in labels]
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in spots]
    right, bottom = axes.bbox.x1 * scale + 8, axes.bbox.y0 * scale
    for (text, x, y), (left, base) in zip(labels, spots, strict=True):
        wide = 4.1 * len(text)
        for dx, dy, far in _offsets(wide):
            box = (left + dx, base + dy - 1, left + dx + wide, base + dy + 6)
            meets = (t[0] < box[2] and box[0] < t[2] and t[1] < box[3] and box[1] < t[3] for t in taken)
            if box[2] > right or box[1] < bottom or any(meets):
                continue
            taken.append(box)
            line = {"arrowstyle": "-", "linewidth": 0.4, "color": "#888888", "shrinkA": 0, "shrinkB": 2}
            axes.annotate(
                text,
                (x, y),
                (dx, dy),
                textcoords="offset points",
                fontsize=6.5,
                annotation_clip=False,
                arrowprops=line if far else None,
            )
            break


def _offsets(wide: float) -> Iterator[tuple[float, float, bool]]:
    """Where a name may stand, in points from its point, and whether a line must lead there; the nearest first."""
    for dx in (5.0, -5.0 - wide):
        for dy in (-2.0, 5.0, -9.0):
            yield dx, dy, False
    yield -wide / 2, 6.0, False
    yield -wide / 2, -11.0, False
    for away in range(20, 100, 8):
        for dx in (-wide / 2, 6.0, -6.0 - wide):
            yield dx, -float(away), True


_Curves = dict[int, list[float]]  # accuracies of the seeds by epoch


def _curves(row: Row, root: Path, report: Callable[[str], None]) -> _Curves:
    found: _Curves = {}
    for run in row.finished:
        if run.curve_sha256 is None:
            continue
        try:
            points = read_curve(root / run.folder / CURVE_FILE, run.curve_sha256)
        except DfkdError as error:
            report(str(error))
            continue
        for point in points:
            found.setdefault(point.epoch, []).append(point.accuracy)
    return found


def _curve_figure(cell: Cell, curves: list[tuple[Row, _Curves]]) -> Figure:
    figure, axes = _figure(5.5, 3.4)
    for at, (row, found) in enumerate(curves):
        color, epochs = _COLORS[at % len(_COLORS)], sorted(found)
        style = _LINES[at // len(_COLORS) % len(_LINES)]
        means = [float(np.mean(found[epoch])) for epoch in epochs]
        axes.plot(epochs, means, style, color=color, linewidth=1.2, label=plain(row.label, 24))
        low, high = ([limit(found[epoch]) for epoch in epochs] for limit in (min, max))
        axes.fill_between(epochs, low, high, color=color, alpha=0.15, linewidth=0)
    axes.set(xlabel="epoch", ylabel="test accuracy, % (band: all seeds)", title=_title(cell.key))
    axes.legend(frameon=False, fontsize=6.5, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def _heat(table: Table) -> Figure:
    methods = sorted({row.label for _, row in table.rows() if row.mean is not None})
    values = np.full((len(methods), len(table.cells)), np.nan)
    for at, cell in enumerate(table.cells):
        for row in cell.rows:
            if row.mean is not None:
                values[methods.index(row.label), at] = row.mean
    figure, axes = _figure(2.2 + 1.1 * len(table.cells), 1.4 + 0.24 * len(methods))
    image = axes.imshow(values, cmap="cividis", aspect="auto")
    for (y, x), value in np.ndenumerate(values):
        if not np.isnan(value):
            color = "white" if image.norm(value) < 0.5 else "black"
            axes.text(x, y, f"{value:.2f}", ha="center", va="center", color=color, fontsize=7)
    labels = [plain(f"{key.dataset}\n", 20) + f"\n{plain(key.pair, 30)}" for key in (cell.key for cell in table.cells)]
    axes.set_xticks(range(len(labels)), labels, fontsize=6, rotation=30, ha="right")
    axes.set_yticks(range(len(methods)), [plain(method, 30) for method in methods], fontsize=7)
    figure.colorbar(image, label="test accuracy, %")
    return figure


def _claims(rows: list[Row]) -> Figure:
    figure, axes = _figure(4.2, 3.8)
    ends: list[float] = []
    colors = {"reproduced": "#009e73", "not reproduced": "#d55e00", "other setting": "#8a8f98", "not tried": "#8a8f98"}
    shown: set[str] = set()
    labels: list[tuple[str, float, float]] = []
    for row in rows:
        found = row.claim
        if found is None or found.claim.top1 is None or row.mean is None:
            continue
        label = None if found.verdict in shown else found.verdict
        shown.add(found.verdict)
        x = found.claim.top1
        axes.errorbar(x, row.mean, row.half_width or 0.0, fmt="o", color=colors[found.verdict], label=label, ms=4)
        labels.append((plain(row.label, 20), x, row.mean))
        ends += [x, row.mean]
    limits = [min(ends) - 2, min(101, max(ends) + 2)]
    axes.plot(limits, limits, color="#8a8f98", linewidth=0.8, linestyle="--")
    axes.set(xlabel="published, %", ylabel="measured, %")
    axes.legend(frameon=False, fontsize=7)
    _label(figure, axes, labels)
    return figure
