"""Tables on the screen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from dfkd_bench.cli.console import Column, complain, say
from dfkd_bench.cli.console import table as print_columns

if TYPE_CHECKING:
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.results.records import Record

__all__ = ["print_comparison", "print_table", "report_damage"]


def report_damage(error: DfkdError) -> None:
    """Report which record is left out of a table, and why."""
    complain(f"left out: {error}")


def print_comparison(records: Sequence[Record]) -> None:
    """One table for these runs."""
    from dfkd_bench.leaderboard.table import build

    print_table(build(records))


def print_table(table: pd.DataFrame) -> None:
    """The columns that matter most, a table for each dataset, preset and protocol; all columns are in the CSV."""
    for (dataset, preset, protocol), group in table.groupby(["dataset", "preset", "protocol"], sort=True):
        title = f"{dataset}, preset {preset}, {protocol} budgets: test accuracy in percent after the last epoch"
        names = [Column(name, no_wrap=True) for name in ("Pair", "Method", "Augmenter", "Prior")]
        numbers = [Column(name, right=True) for name in _NUMBERS]
        print_columns(title, [*names, *numbers], [_cells(row) for row in group.head(_MOST).to_dict("records")])
        if len(group) > _MOST:
            say(f"{len(group) - _MOST} more rows are in leaderboard.csv.")
    say("Oracle: the best epoch on the test set. Agree: same answer as the teacher. Seconds and FLOPs per run.")
    for note in _notes(table):
        say(note)


# Nobody reads more rows under one heading, and they take seconds to lay out.
_MOST = 200
_NUMBERS = (
    "Seeds",
    "Accuracy",
    "Oracle",
    "Agree",
    "Teacher",
    "Bank",
    "Kept %",
    "Synth s",
    "Augm s",
    "Distill s",
    "TFLOP",
)


def _cells(row: dict[Any, Any]) -> list[str]:
    failed = int(row["failed"])
    spread = f" ± {_number(row['accuracy_ci95'], 2)}" if pd.notna(row["accuracy_ci95"]) else ""
    return [
        f"{row['teacher']}:{row['student']}",
        str(row["method"]),
        str(row["augmenter"]),
        str(row["prior"]),
        f"{row['seeds']}" + (f" (+{failed} failed)" if failed else ""),
        _number(row["accuracy"], 2) + spread,
        _number(row["oracle_best"], 2),
        _number(row["agreement"], 2),
        _number(row["teacher_accuracy"], 2),
        _number(row["bank"], 0),
        _number(row["kept_percent"], 0),
        _number(row["seconds_synthesis"], 1),
        _number(row["seconds_augmentation"], 1),
        _number(row["seconds_distillation"], 1),
        _number(row["tflops"], 1),
    ]


def _number(value: Any, digits: int) -> str:
    return "-" if pd.isna(value) else f"{value:.{digits}f}"


def _notes(table: pd.DataFrame) -> list[str]:
    notes = []
    if len(table) and int(table["seeds"].max()) < 3:
        notes.append("Fewer than three seeds: no ranking can be read from this. Repeat --seed for more.")
    for (dataset, network), group in table.groupby(["dataset", "teacher"]):
        if group["teacher_sha256"].nunique() > 1:
            count = group["teacher_sha256"].nunique()
            notes.append(f"Mixed teachers: rows of {dataset} {network} come from {count} different ones.")
    return notes
