"""The columns of `leaderboard.csv`: name, type, meaning, and how each is made of a row. Imports no pandas."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from dfkd_bench.leaderboard.model import PHASES, Cell, Row
from dfkd_bench.leaderboard.text import plain
from dfkd_bench.method import MethodKind

__all__ = ["COLUMNS", "Column", "Value", "document", "pandas_types"]

Type = Literal["text", "integer", "number", "truth"]
Value = str | int | float | bool | None

_PANDAS: dict[Type, str] = {"text": "string", "integer": "Int64", "number": "float64", "truth": "boolean"}


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Attributes:
        name: its header; a unit is its end.
        type: of its cells; an empty cell is what is not known or does not exist.
        meaning: for the documentation.
        value: the cell of a row.
    """

    name: str
    type: Type
    meaning: str
    value: Callable[[Cell, Row], Value]


def pandas_types() -> dict[str, str]:
    """For `pandas.read_csv(path, dtype=pandas_types(), keep_default_na=False, na_values=[""])`."""
    return {column.name: _PANDAS[column.type] for column in COLUMNS}


def _text(name: str, meaning: str, value: Callable[[Cell, Row], str | None]) -> Column:
    def shown(cell: Cell, row: Row) -> str | None:
        found = value(cell, row)
        return None if found is None else plain(found, 2000)

    return Column(name, "text", meaning, shown)


def _long(name: str, meaning: str, value: Callable[[Cell, Row], str]) -> Column:
    # Made by us of numbers and hashes: nothing to clean, and nothing may be cut.
    return Column(name, "text", meaning, value)


def _integer(name: str, meaning: str, value: Callable[[Cell, Row], int | None]) -> Column:
    return Column(name, "integer", meaning, value)


def _number(name: str, meaning: str, value: Callable[[Cell, Row], float | None]) -> Column:
    return Column(name, "number", meaning, value)


def _truth(name: str, meaning: str, value: Callable[[Cell, Row], bool | None]) -> Column:
    return Column(name, "truth", meaning, value)


def _points(cell: Cell, row: Row) -> str:
    return json.dumps({str(run.seed): run.accuracy for run in row.finished}, separators=(",", ":"))


def _joined(pairs: Iterable[Mapping[str, str]]) -> str:
    """Name and value of each, several values beside each other."""
    found: dict[str, dict[str, None]] = {}
    for mapping in pairs:
        for name, value in mapping.items():
            found.setdefault(name, {})[value] = None
    return "; ".join(f"{name} {' + '.join(values)}" for name, values in sorted(found.items()))


def _phase_flop(phase: str) -> Column:
    return _number(
        f"{phase}_flop",
        f"counted floating-point operations of {phase}, mean over the finished runs",
        lambda cell, row: row.costs.flops_by_phase.get(phase, 0.0) if row.costs else None,
    )


def _phase_seconds(phase: str) -> Column:
    return _number(
        f"{phase}_seconds",
        f"seconds of {phase}, mean over the finished runs",
        lambda cell, row: row.costs.seconds_by_phase.get(phase, 0.0) if row.costs else None,
    )


# Not `null`: who reads the file with pandas' usual settings would find nothing there.
_KIND: dict[MethodKind, str] = {"method": "method", "null": "null baseline", "reference": "reference"}

#: In their order. Names, types and meanings are stable: a new column goes to the end.
COLUMNS: tuple[Column, ...] = (
    _text("dataset", "the dataset's name", lambda cell, row: cell.key.dataset),
    _text("teacher", "the teacher's network", lambda cell, row: cell.key.teacher),
    _text("student", "the student's network", lambda cell, row: cell.key.student),
    _text("preset", "the preset's name, also where options were changed", lambda cell, row: cell.key.preset),
    _text("protocol", "whose budget: `native` or `matched`", lambda cell, row: cell.key.protocol),
    _text("kind", "`method`, `null baseline` or `reference`", lambda cell, row: _KIND[row.kind]),
    _text(
        "rank",
        "rank in the cell: `1`, `1=` if tied, `not ranked`; a row that varies much over its seeds can have a better "
        "one than a row with a higher mean",
        lambda cell, row: row.standing.label,
    ),
    _integer("place", "the rank as a number", lambda cell, row: row.standing.place),
    _text("method", "the method's name", lambda cell, row: row.method),
    _text("variant", "how it differs from the cell's other rows of this method", lambda cell, row: row.variant or None),
    _text("synthesizer", "where the images come from", lambda cell, row: row.stages[0]),
    _text("augmenter", "what makes variants of them", lambda cell, row: row.stages[1]),
    _text("filter", "what decides which are kept", lambda cell, row: row.stages[2]),
    _text("distiller", "what the student minimizes", lambda cell, row: row.stages[3]),
    _text("prior", "knowledge beyond the teacher: `none`, `text`, `image`, `data`", lambda cell, row: row.prior),
    _text("state", "`finished`, `partly failed` or `failed`", lambda cell, row: row.state),
    _integer("seeds", "runs that finished", lambda cell, row: row.statistics.n),
    _integer("failed_runs", "runs that did not finish", lambda cell, row: len(row.lost)),
    _integer(
        "failed_last_epoch",
        "the last epoch whose end a failed run reached, the lowest of them",
        lambda cell, row: min((run.last_good_epoch for run in row.lost), default=None),
    ),
    _number("accuracy_percent", "test accuracy after the last epoch, mean over the seeds", lambda cell, row: row.mean),
    _number(
        "interval95_points",
        "half of the 95 % Student-t interval of that mean over seeds",
        lambda cell, row: row.half_width,
    ),
    _truth(
        "interval95_pooled",
        "whether that rests on the pooled standard deviation",
        lambda cell, row: row.statistics.pooled if row.half_width is not None and row.kind == "method" else None,
    ),
    _number(
        "deviation_points", "the row's own standard deviation over seeds", lambda cell, row: row.statistics.deviation
    ),
    _number(
        "pooled_deviation_points",
        "standard deviation over seeds, pooled over the methods of the cell",
        lambda cell, row: row.statistics.pooled_deviation if row.kind == "method" else None,
    ),
    _long("accuracy_by_seed_percent", "every point: a JSON object from seed to accuracy", _points),
    _number(
        "difference_to_best_points",
        "mean minus the mean of the cell's best method",
        lambda cell, row: row.standing.difference,
    ),
    _number("difference_p", "p of that difference, corrected for the whole cell", lambda cell, row: row.standing.p),
    _number(
        "smallest_difference_points",
        "the smallest difference that the cell's seeds are sure to show",
        lambda cell, row: cell.smallest_difference,
    ),
    _integer("test_images", "images in the test split", lambda cell, row: row.test_images),
    _number(
        "sampling_low_percent",
        "lower end of the 95 % binomial interval that the size of the test split leaves",
        lambda cell, row: row.sampling.low if row.sampling else None,
    ),
    _number("sampling_high_percent", "its upper end", lambda cell, row: row.sampling.high if row.sampling else None),
    _number(
        "oracle_best_percent",
        "best epoch, chosen on the test split, mean over the seeds",
        lambda cell, row: row.oracle_best,
    ),
    _number("oracle_premium_points", "that minus the last epoch", lambda cell, row: row.oracle_premium),
    _number(
        "agreement_percent",
        "test images on which student and teacher name the same class, mean",
        lambda cell, row: row.agreement,
    ),
    _number("teacher_accuracy_percent", "the teacher's test accuracy", lambda cell, row: row.teacher_accuracy),
    _number("claim_percent", "a published accuracy", lambda cell, row: row.claim.claim.top1 if row.claim else None),
    _text(
        "claim_method", "the name that it was published under", lambda c, r: r.claim.claim.method if r.claim else None
    ),
    _text("claim_source", "where it was published", lambda c, r: r.claim.claim.source if r.claim else None),
    _text(
        "claim_verdict",
        "`reproduced`, `not reproduced`, `other setting` or `not tried`",
        lambda cell, row: row.claim.verdict if row.claim else None,
    ),
    _number("claim_gap_points", "measured minus published", lambda cell, row: row.claim.gap if row.claim else None),
    _number(
        "claim_teacher_percent",
        "the teacher's accuracy in that source",
        lambda cell, row: row.claim.teacher_claimed if row.claim else None,
    ),
    _integer(
        "claims",
        "published numbers for this method, dataset and pair; the others are in `dfkd-bench claims`",
        lambda cell, row: len(row.comparisons),
    ),
    _truth(
        "options_changed",
        "whether the options are other than the preset's; empty if nothing was published for the row, or unknown",
        lambda cell, row: row.changed,
    ),
    _number(
        "synthesized_images", "images made, mean", lambda cell, row: row.images.synthesized if row.images else None
    ),
    _number(
        "augmented_images",
        "variants made of them, mean",
        lambda cell, row: row.images.augmented if row.images else None,
    ),
    _number(
        "kept_percent",
        "variants that the filter kept; empty without variants",
        lambda cell, row: row.images.kept_percent if row.images else None,
    ),
    _number("bank_images", "images in the bank at the end, mean", lambda c, r: r.images.in_bank if r.images else None),
    _number(
        "target_agreement_percent",
        "images of the bank to which the teacher gives their target class, mean",
        lambda cell, row: row.images.target_agreement if row.images else None,
    ),
    _integer(
        "distillation_samples",
        "images that the student was trained on, repeats counted",
        lambda cell, row: row.costs.distillation_samples if row.costs else None,
    ),
    _number(
        "total_flop",
        "counted floating-point operations of all phases, backward passes included, mean",
        lambda cell, row: row.costs.flops if row.costs else None,
    ),
    *(_phase_flop(phase) for phase in PHASES),
    _number(
        "total_seconds", "seconds of all phases on `hardware`, mean", lambda c, r: r.costs.seconds if r.costs else None
    ),
    *(_phase_seconds(phase) for phase in PHASES),
    _integer(
        "peak_memory_bytes",
        "highest memory of any phase of any run: allocated on a GPU, else of the process",
        lambda cell, row: row.costs.peak_memory if row.costs else None,
    ),
    _text("hardware", "what it ran on", lambda cell, row: " + ".join(row.hardware)),
    _text("precision", "what the networks were computed in, and whether compiled", lambda cell, row: row.precision),
    _text("code", "versions of the packages with plugins", lambda cell, row: _joined([row.code])),
    _text("versions", "Python and libraries", lambda cell, row: _joined(e.versions for e in row.environments)),
    _text("teacher_sha256", "hash of the teacher's weights", lambda cell, row: cell.key.teacher_sha256 or None),
    _text("test_split", "hash of the test images and labels", lambda cell, row: cell.key.test_split or None),
    _text("settings", "what the specs of the row's runs share, as a hash", lambda cell, row: row.settings),
    _text("id", "the row's name, unlike any other's in this table", lambda cell, row: row.id),
    _long("runs", "the runs' hashes, by seed", lambda cell, row: " ".join(run.run for run in row.runs)),
    _text("reasons", "why runs did not finish", lambda cell, row: "; ".join(row.reasons) or None),
)


def document() -> str:
    """The table of columns in `docs/leaderboard-columns.md`."""
    lines = ["| column | type | meaning |", "|---|---|---|"]
    lines += [f"| `{column.name}` | {column.type} | {column.meaning} |" for column in COLUMNS]
    return "\n".join(lines) + "\n"
