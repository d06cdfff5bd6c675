"""How long runs will take, from what runs like them took. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean

from dfkd_bench.results.records import Environment, Record
from dfkd_bench.spec import RunSpec

__all__ = ["Estimate", "estimate", "in_words"]


@dataclass(frozen=True)
class Estimate:
    """An estimate.

    Attributes:
        seconds: of the runs for which comparable ones were measured, one after another.
        measured: how many they are.
        runs: how many runs there are in all.
    """

    seconds: float
    measured: int
    runs: int

    def sentence(self) -> str:
        """For people."""
        alone = self.runs - self.measured
        if not self.measured:
            return f"no estimate for {_runs(self.runs)}: none like them was measured on this hardware"
        words = f"about {in_words(self.seconds)} for {self.measured} of {_runs(self.runs)}"
        if alone:
            return f"{words}; no estimate for {alone}, since no comparable run was measured"
        return f"about {in_words(self.seconds)} for {_runs(self.runs)}, one after another"


def estimate(todo: Sequence[RunSpec], measured: Iterable[Record], here: Environment) -> Estimate:
    """What is left, by the mean of finished runs that differ in nothing but the seed.

    Args:
        todo: the runs.
        measured: what is known; runs on other hardware, in another precision, compiled where these are not (or the
            other way round) or unfinished count for nothing.
        here: where the runs will be.
    """
    left: dict[str, int] = {}
    for spec in todo:
        left[spec.settings] = left.get(spec.settings, 0) + 1
    seconds: dict[str, list[float]] = {}
    for record in measured:
        there = record.environment
        same = (there.hardware, there.precision, there.compiled) == (here.hardware, here.precision, here.compiled)
        if same and record.status == "finished":
            # The ledger's seconds continue over interruptions; the clock's would count a night in between.
            spent = sum(phase["seconds"] for phase in record.cost.values())
            seconds.setdefault(record.spec.settings, []).append(spent)
    known = {settings: count for settings, count in left.items() if settings in seconds}
    total = sum(count * fmean(seconds[settings]) for settings, count in known.items())
    return Estimate(total, sum(known.values()), len(todo))


def in_words(seconds: float) -> str:
    """A time as people say it: `40 s`, `12 min`, `3 h 20 min`, `5 days 3 h`."""
    if seconds < 60:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count} runs"
