"""A study's figure: each arm's accuracy with interval and seeds, and what it computes. Needs matplotlib."""

from __future__ import annotations

from pathlib import Path

from dfkd_bench.leaderboard.figures import drawing, save
from dfkd_bench.leaderboard.model import PHASES
from dfkd_bench.leaderboard.study import Study, flops_of
from dfkd_bench.leaderboard.text import amount, plain

__all__ = ["write_study_figure"]

_PHASE_COLORS = dict(zip(PHASES, ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9"), strict=True))


def write_study_figure(study: Study, title: str, out: Path, name: str) -> list[Path]:
    """PDF, SVG and PNG.

    Raises:
        DfkdError: matplotlib is not installed, or the folder cannot be written.
    """
    with drawing(out):
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.5, 1.2 + 0.3 * len(study.arms)), layout="constrained")
        left, right = figure.subplots(1, 2, sharey=True)
        left.set_yticks(range(len(study.arms)), [plain(arm.label, 40) for arm in study.arms])
        left.invert_yaxis()
        for at, arm in enumerate(study.arms):
            found = arm.statistics
            if found.mean is None:
                continue
            left.plot(found.points, [at] * found.n, "o", color="#0072b2", alpha=0.4, markersize=3)
            left.errorbar(found.mean, at, xerr=found.half_width or 0.0, fmt="|", color="#000000", markersize=9)
            start = 0.0
            for phase in PHASES:
                spent = arm.mean(flops_of(phase)) or 0.0
                right.barh(at, spent, left=start, color=_PHASE_COLORS[phase], height=0.6)
                start += spent
        left.set_xlabel("test accuracy, %, mean with its 95 % interval")
        right.set_xlabel("counted FLOP a run")
        right.locator_params(axis="x", nbins=4)
        right.xaxis.set_major_formatter(lambda value, _: amount(value))
        for phase, color in _PHASE_COLORS.items():
            right.barh(0, 0, color=color, label=phase)
        figure.legend(frameon=False, fontsize=6, loc="outside lower right", ncols=len(PHASES))
        figure.suptitle(plain(title, 100), fontsize=9)
        return save(figure, out, name)
