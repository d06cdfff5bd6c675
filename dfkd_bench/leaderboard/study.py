"""A study's records -> its arms, a table of them, and a paragraph whose numbers are theirs. Imports no torch."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from dfkd_bench.errors import DfkdError, unknown_name
from dfkd_bench.leaderboard.csv_form import csv_field
from dfkd_bench.leaderboard.markdown import escaped
from dfkd_bench.leaderboard.model import PHASES
from dfkd_bench.leaderboard.statistics import RowStatistics, describe
from dfkd_bench.leaderboard.text import amount, number, plain, signed
from dfkd_bench.leaderboard.ties import FEWEST_SEEDS, Ranking, Standing, rank
from dfkd_bench.results.records import Record

__all__ = ["Arm", "Study", "flops_of", "study_of"]

_NOT_MEASURED = "(not measured)"


@dataclass(frozen=True)
class Arm:
    """One setting of a study over its seeds.

    Attributes:
        label: its name in the grid file.
        records: of its finished runs; there may be none.
        statistics: of their accuracies, in percent.
        standing: its rank among the arms.
    """

    label: str
    records: tuple[Record, ...]
    statistics: RowStatistics
    standing: Standing

    @property
    def name(self) -> str:
        """The label as it stands in a sentence."""
        return f"'{plain(self.label)}'"

    def mean(self, value: Callable[[Record], float | None]) -> float | None:
        """Of a number of each record; None if one lacks it or there is no record."""
        values = [value(record) for record in self.records]
        known = [each for each in values if each is not None]
        return fmean(known) if known and len(known) == len(values) else None

    @property
    def accuracy(self) -> str:
        """Mean and half of its interval, in percent."""
        found = self.statistics
        if found.mean is None:
            return _NOT_MEASURED
        interval = "" if found.half_width is None else f" ± {found.half_width:.2f}"
        return f"{found.mean:.2f}{interval} %"


@dataclass(frozen=True)
class Study:
    """The arms in the order of the grid file, and their ranking."""

    arms: tuple[Arm, ...]
    ranking: Ranking

    def csv(self) -> str:
        """A line for each arm; accuracies in percent, nothing rounded."""
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(
            ["arm", "n", "accuracy", "half_width", "deviation", "rank", "difference_from_best", "p", *_COLUMNS]
        )
        for arm in self.arms:
            found, standing = arm.statistics, arm.standing
            of_seeds = [found.n, found.mean, found.half_width, found.deviation]
            of_rank = [standing.label, standing.difference, standing.p]
            more = [arm.mean(value) for value in _COLUMNS.values()]
            writer.writerow([csv_field(each) for each in (plain(arm.label), *of_seeds, *of_rank, *more)])
        return out.getvalue()

    def markdown(self) -> str:
        """The table for people."""
        head = ["arm", "n", "accuracy, %", "rank", "to best", "kept, %", "wanted class, %", "FLOP", "augmentation, %"]
        lines = [head, ["---", *["---:"] * (len(head) - 1)]]
        for arm in self.arms:
            found, standing = arm.statistics, arm.standing
            lines.append(
                [
                    escaped(plain(arm.label)),
                    str(found.n),
                    number(found.mean) + ("" if found.half_width is None else f" ± {found.half_width:.2f}"),
                    standing.label,
                    signed(standing.difference),
                    number(arm.mean(_kept), 1),
                    number(arm.mean(_wanted), 1),
                    amount(arm.mean(_all_flops)),
                    number(arm.mean(_augmentation_share), 0),
                ]
            )
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"

    def paragraph(self, words: str) -> str:
        """The template `words` with numbers for its placeholders; see `docs/grids.md`.

        Raises:
            DfkdError: a placeholder, or the arm in it, is unknown.
        """
        # Lines of a template end where its author's did.
        return re.sub(r"\{([^{}:]*)(?::([^{}]*))?\}", self._filled, " ".join(words.split()))

    def _filled(self, found: re.Match[str]) -> str:
        name, label = found[1], found[2]
        if label is None:
            if name not in _OF_ALL:
                raise unknown_name("placeholder of a study's words", name, [*_OF_ALL, *_OF_AN_ARM])
            return _OF_ALL[name](self)
        if name not in _OF_AN_ARM:
            raise unknown_name("placeholder of a study's words", name, [*_OF_ALL, *_OF_AN_ARM])
        arms = {arm.label: arm for arm in self.arms}
        if label not in arms:
            raise unknown_name("arm of the study", label, arms)
        return _OF_AN_ARM[name](arms[label])

    def verdict(self) -> str:
        """Which arms can be told apart, as sentences."""
        ranked = [arm for arm in self.arms if arm.standing.place is not None]
        if len(ranked) < 2:
            return f"Fewer than two arms have {FEWEST_SEEDS} seeds, so that nothing is ranked."
        best = max(ranked, key=lambda arm: arm.statistics.mean or 0.0)
        ties = [arm.name for arm in ranked if arm.standing.place == 1 and arm is not best]
        below = [arm.name for arm in ranked if arm.standing.place != 1]
        sure = self.ranking.smallest_difference
        shown = (
            "" if sure is None else f" The smallest difference that these seeds are sure to show is {sure:.1f} points."
        )
        if not below:
            return f"No arm can be told from the best mean, that of {best.name}.{shown}"
        apart = f"{_listed(below)} can be told from the best arm, {best.name}"
        return f"{apart}; {_listed(ties)} cannot.{shown}" if ties else f"{apart}.{shown}"


def study_of(arms: Iterable[tuple[str, Sequence[Record]]]) -> Study:
    """Of arms by label with the records of their runs; what did not finish is left out.

    Raises:
        DfkdError: no run has finished.
    """
    finished = [(label, tuple(r for r in records if r.accuracy is not None)) for label, records in arms]
    if not any(records for _, records in finished):
        raise DfkdError("no run of the study has finished: there is nothing to tell")
    points = [{r.spec.seed: r.accuracy.last for r in records if r.accuracy} for _, records in finished]
    ranking, rows = rank(points), describe(points)
    made = zip(finished, rows, ranking.standings, strict=True)
    return Study(tuple(Arm(*one, row, standing) for one, row, standing in made), ranking)


def flops_of(phase: str) -> Callable[[Record], int]:
    """Tells what a record spent in a phase."""
    return lambda record: int(record.cost[phase]["flops"]) if phase in record.cost else 0


def _seconds(record: Record) -> float:
    return sum(float(phase["seconds"]) for phase in record.cost.values())


def _all_flops(record: Record) -> float:
    return float(sum(phase["flops"] for phase in record.cost.values()))


def _augmentation_share(record: Record) -> float | None:
    total = _all_flops(record)
    return 100 * flops_of("augmentation")(record) / total if total else None


def _kept(record: Record) -> float | None:
    bank = record.bank
    return 100 * bank.kept / bank.augmented if bank is not None and bank.augmented else None


def _wanted(record: Record) -> float | None:
    return None if record.bank is None else record.bank.target_agreement


def _in_bank(record: Record) -> float | None:
    return None if record.bank is None else record.bank.in_bank


_COLUMNS: dict[str, Callable[[Record], float | None]] = {
    "kept_percent": _kept,
    "target_agreement": _wanted,
    "in_bank": _in_bank,
    **{f"{phase}_flops": flops_of(phase) for phase in PHASES},
    "seconds": _seconds,
}


def _told(value: Callable[[Record], float | None], form: Callable[[float], str]) -> Callable[[Arm], str]:
    def tell(arm: Arm) -> str:
        mean = arm.mean(value)
        return _NOT_MEASURED if mean is None else form(mean)

    return tell


def _percent(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:.{digits}f} %"


_OF_AN_ARM: dict[str, Callable[[Arm], str]] = {
    "accuracy": lambda arm: arm.accuracy,
    "kept": _told(_kept, _percent(1)),
    "wanted": _told(_wanted, _percent(1)),
    "images": _told(_in_bank, lambda value: f"{value:.0f}"),
    "flops": _told(_all_flops, lambda value: f"{amount(value)}FLOP"),
    "augmentation": _told(_augmentation_share, _percent(0)),
    "n": lambda arm: str(arm.statistics.n),
}


def _seeds(study: Study) -> str:
    counts = [arm.statistics.n for arm in study.arms]
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def _hardware(study: Study) -> str:
    seen = (r.environment for arm in study.arms for r in arm.records)
    return _listed(dict.fromkeys(plain(f"{each.hardware} in {each.precision}") for each in seen))


def _best(study: Study) -> str:
    best = max(study.arms, key=lambda arm: arm.statistics.mean or 0.0)
    return f"{best.name} ({best.accuracy})"


_OF_ALL: dict[str, Callable[[Study], str]] = {
    "n": _seeds,
    "hardware": _hardware,
    "best": _best,
    "verdict": Study.verdict,
}


def _listed(labels: Iterable[str]) -> str:
    *first, last = list(labels) or ["none"]
    return f"{', '.join(first)} and {last}" if first else last
