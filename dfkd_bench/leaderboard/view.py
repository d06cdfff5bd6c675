"""What a person sees of the leaderboard, as text without any form's own signs.

Terminal, Markdown and LaTeX show these headings, rows and notes; each escapes them in its own way. Nothing in here is
cut but texts of strangers, by `text.plain`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dfkd_bench.leaderboard.claims import Comparison
from dfkd_bench.leaderboard.model import KINDS, Across, Cell, CellKey, Row, Table
from dfkd_bench.leaderboard.text import amount, number, plain, signed
from dfkd_bench.leaderboard.ties import FEWEST_SEEDS

__all__ = ["COLUMNS", "GROUPS", "LEGEND", "Column", "across_lines", "cells_of", "closing", "groups", "notes", "title"]

#: The heading of each kind's rows within a cell.
GROUPS = {"method": "Methods", "null": "Null baselines", "reference": "References, not data-free"}

_BUDGETS = {
    "native": "each method's own budget (native)",
    "matched": "one budget for all methods (matched)",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, and whether its cells are set to the right."""

    name: str
    right: bool = True


COLUMNS: tuple[Column, ...] = (
    Column("Rank", right=False),
    Column("Method", right=False),
    Column("Prior", right=False),
    Column("n"),
    Column("Accuracy"),
    Column("SD (pooled)"),
    Column("Oracle"),
    Column("Published"),
    Column("Agree"),
    Column("Images"),
    Column("Samples"),
    Column("FLOP"),
    Column("Seconds"),
    Column("Memory"),
)

#: What the headings mean; once for a whole table.
LEGEND: tuple[str, ...] = (
    "Accuracy: percent of the test images after the last epoch, mean over n seeds, with half of Student's 95 % "
    "interval over seeds; the seeds' variance is pooled over a table's methods, or (own) each row's own where "
    "variances differ.",
    f"Rank: 1= is a rank shared by methods that cannot be told apart (5 % for the whole table); below {FEWEST_SEEDS} "
    "seeds nothing is ranked. Null baselines and references have no rank.",
    "SD: standard deviation over seeds, the row's own and (pooled). Oracle: what choosing the epoch on the test images "
    "would add. Published: a published accuracy and the measured one minus it; = reproduced, ≠ not reproduced, "
    "~ of another setting. Agree: percent of the test images on which student and teacher name the same class.",
    "Images: synthesized. Samples: images that the student was trained on, repeats counted. FLOP: counted operations, "
    "backward passes included. Samples, FLOP and seconds are means per run, memory is the peak.",
)


def title(key: CellKey, teacher_accuracy: float | None = None) -> str:
    """What a cell's table is of."""
    teacher = "unknown teacher" if not key.teacher_sha256 else f"teacher {key.teacher_sha256[:8]}"
    if teacher_accuracy is not None:
        teacher += f" ({teacher_accuracy:.2f} %)"
    return plain(f"{key.dataset}, {key.pair}, preset {key.preset}, {_BUDGETS[key.protocol]}, {teacher}")


def cells_of(row: Row) -> tuple[str, ...]:
    """A row's cells, in the order of `COLUMNS`."""
    found, images, costs = row.statistics, row.images, row.costs
    own = f"{number(found.deviation)}"
    if row.kind == "method" and row.finished and found.pooled_deviation is not None:
        own += f" ({number(found.pooled_deviation)})"
    return (
        row.standing.label if row.kind == "method" else "-",
        plain(row.label, 80),
        "-" if row.prior is None else row.prior,
        f"{found.n}" + (f" (+{len(row.lost)} failed)" if row.lost else ""),
        _accuracy(row),
        own,
        signed(row.oracle_premium),
        "-" if row.claim is None else _claim(row.claim),
        number(row.agreement),
        amount(images.synthesized if images else None),
        amount(costs.distillation_samples if costs else None),
        amount(costs.flops if costs else None),
        amount(costs.seconds if costs else None),
        "-" if costs is None or costs.peak_memory is None else f"{amount(costs.peak_memory, 1024)}B",
    )


def _accuracy(row: Row) -> str:
    if row.half_width is None:
        return number(row.mean)
    own = row.kind == "method" and not row.statistics.pooled
    return f"{number(row.mean)} ± {number(row.half_width)}" + (" (own)" if own else "")


_VERDICTS = {"reproduced": "=", "not reproduced": "≠", "other setting": "~", "not tried": ""}


def _claim(found: Comparison) -> str:
    gap = "" if found.gap is None else f" ({signed(found.gap)})"
    return f"{_VERDICTS[found.verdict]}{number(found.claim.top1)}{gap}"


def notes(cell: Cell) -> Iterator[str]:
    """What stands under a cell's table, a sentence or two each."""
    methods = [row for row in cell.of_kind("method") if row.finished]
    if cell.smallest_difference is not None:
        how = "paired by seed" if cell.paired else "the rows have different seeds"
        yield (
            f"The smallest difference that these seeds are sure to show: {cell.smallest_difference:.2f} points ({how})."
        )
    elif methods and max(row.statistics.n for row in methods) < FEWEST_SEEDS:
        yield "Fewer than three seeds: no ranking can be read from this."
    yield from _crossed(cell)
    best = next((row for row in cell.rows if row.sampling is not None and row.mean is not None), None)
    if best is not None and best.sampling is not None:
        yield (
            f"The test split's {best.test_images:,} images alone leave {number(best.mean)} % between "
            f"{best.sampling.low:.2f} and {best.sampling.high:.2f} (95 %, binomial); more seeds do not change that."
        )
    yield from _sources(cell)
    yield f"Measured on {_set(h for row in cell.rows for h in row.hardware)} in " + (
        f"{_set(row.precision for row in cell.rows)} with "
        f"{_set(f'{name} {version}' for row in cell.rows for name, version in row.code.items())}."
    )
    for row in cell.rows:
        for reason in row.reasons:
            yield plain(f"{row.label}, {reason}", 299).rstrip(".") + "."


def _crossed(cell: Cell) -> Iterator[str]:
    """Where ranks do not follow the means: to be told apart is not transitive where variances differ."""
    ranked = [(row.standing.place, row) for row in cell.of_kind("method") if row.standing.place is not None]
    for at, (place, row) in enumerate(ranked):
        above = [plain(other.label, 80) for worse, other in ranked[:at] if worse > place]
        if above:
            label = plain(row.label, 80)
            yield (
                f"Ranks do not follow the means here: {label} has rank {row.standing.label} with a lower mean than "
                f"{', '.join(above)}. Its accuracy varies so much over the seeds that it cannot be told from the first "
                "row of its rank, and the others can."
            )


def _sources(cell: Cell) -> Iterator[str]:
    for row in cell.rows:
        found = row.claim
        if found is None:
            continue
        teacher = ""
        if found.teacher_claimed is not None:
            teacher = f" Its teacher has {number(found.teacher_claimed)} %, ours {number(found.teacher_measured)} %."
        changed = " Options were changed." if row.changed else ""
        others = len(row.comparisons) - 1
        more = f" {others} more: dfkd-bench claims." if others else ""
        text = f"{row.label}: {found.claim.method} {number(found.claim.top1)} %, {found.verdict}; {found.claim.source}."
        yield plain(text + teacher + changed + more, 600)


def _set(texts: Iterator[str]) -> str:
    return plain(", ".join(sorted(set(texts))) or "unknown code")


def across_lines(across: Across) -> Iterator[str]:
    """A summary over cells, a line for each method: its middle, and how the first compares with it."""
    yield (
        f"Over {len(across.cells)} cells of preset {plain(across.preset)}, {_BUDGETS[across.protocol]}; "
        f"all {len(across.methods)} methods are in {across.shared} of them."
    )
    for method in across.methods:
        if method.middle is not None:
            yield (
                f"{plain(method.method)}: interquartile mean {method.middle.mean:.2f} % of the teacher's accuracy "
                f"({method.middle.low:.2f} to {method.middle.high:.2f}, 95 % bootstrap)."
            )
    for pair in across.pairs:
        if pair.a != across.methods[0].method:
            continue  # the square of them; the model has all
        found, better = pair.difference, pair.improvement
        yield (
            f"{plain(pair.a)} minus {plain(pair.b)}: {signed(found.difference)} points (p {found.p:.3f}, "
            f"corrected {pair.p:.3f}; {found.pairs} pairs in {found.cells} cells); a run of the first is the better "
            f"one with probability {better.probability:.2f} ({better.low:.2f} to {better.high:.2f})."
        )


def groups(cell: Cell) -> Iterator[tuple[str, Sequence[Row]]]:
    """The rows of each kind that a cell has, under its heading."""
    for kind in KINDS:
        rows = cell.of_kind(kind)
        if rows:
            yield GROUPS[kind], rows


def closing(table: Table) -> Iterator[str]:
    """What a reader must know of the whole table, and the files that are not in it."""
    yield from map(plain, table.notes)
    for sentence in table.left_out:
        yield f"Left out: {plain(sentence)}"
