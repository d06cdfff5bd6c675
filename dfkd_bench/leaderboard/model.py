"""The leaderboard as data: the one model that every form of it is made from. Plain frozen dataclasses.

From a results folder:

    from dfkd_bench.hooks.registry import default_registry
    from dfkd_bench.leaderboard.build import read_table
    from dfkd_bench.planning.installed import Installed
    from dfkd_bench.results.records import Results

    table = read_table(Results(Path("results")), Installed(default_registry()))

`Table.cells` holds a `Cell` for each dataset, pair, preset, protocol, teacher and test split; a cell holds `Row`s. A
row is one method as it was set, in one precision and with one version of the code, over its seeds: what differs in one
of these is another row or another cell, never an average. `Table.across` compares methods over several cells.

Units: accuracies, agreements and shares in percent, differences and half-widths in points of percent, seconds, bytes,
floating-point operations (FLOP) and counts. None stands for what is not known or does not exist. Nothing is rounded.
Importing this imports neither torch, rich nor pandas.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from dfkd_bench.leaderboard.across import Difference, Improvement, Middle
from dfkd_bench.leaderboard.claims import Comparison, Verdict
from dfkd_bench.leaderboard.statistics import Binomial, RowStatistics
from dfkd_bench.leaderboard.ties import Standing
from dfkd_bench.method import MethodKind, Prior
from dfkd_bench.results.records import Environment, Status
from dfkd_bench.spec import Protocol, RunSpec

__all__ = [
    "KINDS",
    "PHASES",
    "Across",
    "AcrossMethod",
    "AcrossPair",
    "Cell",
    "CellKey",
    "Costs",
    "Images",
    "Row",
    "RowState",
    "Run",
    "Table",
]

#: The kinds of rows, in the order in which a cell has them.
KINDS: tuple[MethodKind, ...] = ("method", "null", "reference")

#: What costs are booked to, in the order of a run.
PHASES = ("synthesis", "augmentation", "filtering", "distillation", "evaluation")

RowState = Literal["finished", "partly failed", "failed"]


@dataclass(frozen=True, slots=True)
class CellKey:
    """What all rows of a cell share.

    Attributes:
        dataset: the dataset's name.
        teacher: the teacher's network.
        student: the student's network.
        preset: the preset's name. Rows whose options were changed keep it: see `Row.changed`.
        protocol: whose budget.
        teacher_sha256: of the teacher's weights; empty if every run ended before it was known.
        test_split: hash of the test images and labels; empty likewise.
    """

    dataset: str
    teacher: str
    student: str
    preset: str
    protocol: Protocol
    teacher_sha256: str = ""
    test_split: str = ""

    @property
    def pair(self) -> str:
        """`TEACHER:STUDENT`."""
        return f"{self.teacher}:{self.student}"


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a row.

    Attributes:
        run: the spec's hash.
        seed: its seed.
        status: how it ended.
        reason: why it did not finish.
        accuracy: test accuracy after the last epoch; None if it did not finish.
        oracle_best: the best epoch's, chosen on the test split.
        oracle_epoch: that epoch, counted from 1.
        agreement: test images on which student and teacher name the same class.
        last_good_epoch: the last epoch whose end it reached.
        seconds: of all phases together.
        hardware: what it ran on.
        started: when it began.
        finished: when it ended.
        folder: the run's folder below the results folder, with `/`; `record.json` and the next two files lie there.
        curve_sha256: hash of `curve.csv`; None if there is none.
        images: the picture's file name; None if there is none.
    """

    run: str
    seed: int
    status: Status
    reason: str | None
    accuracy: float | None
    oracle_best: float | None
    oracle_epoch: int | None
    agreement: float | None
    last_good_epoch: int
    seconds: float
    hardware: str
    started: datetime
    finished: datetime
    folder: str
    curve_sha256: str | None
    images: str | None


@dataclass(frozen=True, slots=True)
class Images:
    """What was synthesized and kept: means over the finished runs.

    Attributes:
        synthesized: images made.
        augmented: variants made of them.
        kept_percent: share of the variants that the filter kept; None without variants.
        in_bank: images in the bank at the end.
        target_agreement: share of the bank to which the teacher gives the class they were made for; None if unknown.
    """

    synthesized: float
    augmented: float
    kept_percent: float | None
    in_bank: float
    target_agreement: float | None


@dataclass(frozen=True, slots=True)
class Costs:
    """What a run cost: means over the finished runs, but for memory.

    Attributes:
        flops: counted floating-point operations, all phases.
        flops_by_phase: the same by phase; a phase that did nothing is not there.
        seconds: all phases, on the row's hardware.
        seconds_by_phase: the same by phase.
        distillation_samples: images that the student was trained on, repeats counted.
        peak_memory: the highest of any phase of any run, in bytes; None if it was not measured.
    """

    flops: float
    flops_by_phase: dict[str, float]
    seconds: float
    seconds_by_phase: dict[str, float]
    distillation_samples: int
    peak_memory: int | None


@dataclass(frozen=True, slots=True)
class Row:
    """One method as it was set, over its seeds.

    Attributes:
        id: short, the same for the same records and unlike any other row's of the table; good for an anchor in a page.
        method: the method's name.
        kind: method, null baseline, or reference. A row that saw the real data is a reference, whatever its method.
        variant: how it differs from the cell's other rows of the same method (such as `synthesizer.steps=100` or
            `precision bf16`); empty if it is the only one.
        changed: whether its options are other than the preset's; None if that was not asked or cannot be known.
        prior: the strongest prior of its stages; None if no run got so far.
        spec: the spec of its first seed: stages, options, schedule, preset.
        settings: what its runs' specs share: the first 8 hex digits of the spec's hash with seed 0.
        runs: every run, by seed, failed ones included.
        statistics: points, mean, n, both deviations, half-width of the interval.
        standing: its rank in the cell; place None (`not ranked`) below three seeds, and for nulls and references.
        sampling: what the size of the test split alone leaves open, at the mean; None if the size is unknown.
        test_images: how many images the test split has; None if unknown.
        oracle_best: mean over the seeds of the best epoch on the test split.
        oracle_premium: that minus the mean of the last epoch, in points.
        agreement: mean agreement with the teacher.
        teacher_accuracy: the teacher's test accuracy; None if unknown.
        teacher_sources: where its runs had the teacher from: trained here, or the name of a file.
        comparisons: every published number for this method, dataset and pair, with its verdict.
        images: what was synthesized and kept; None if no run finished.
        costs: what a run cost; None if no run finished.
        environments: where the runs ran, without repeats: hardware, precision, versions, plugins.
        code: versions of the packages that decide the result, by name, and their source's hashes where recorded.
        precision: what the networks were computed in.
    """

    id: str
    method: str
    kind: MethodKind
    variant: str
    changed: bool | None
    prior: Prior | None
    spec: RunSpec
    settings: str
    runs: tuple[Run, ...]
    statistics: RowStatistics
    standing: Standing
    sampling: Binomial | None
    test_images: int | None
    oracle_best: float | None
    oracle_premium: float | None
    agreement: float | None
    teacher_accuracy: float | None
    teacher_sources: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    images: Images | None
    costs: Costs | None
    environments: tuple[Environment, ...]
    code: dict[str, str]
    precision: str

    @property
    def label(self) -> str:
        """The method's name, with the variant if there is one."""
        return f"{self.method} ({self.variant})" if self.variant else self.method

    @property
    def stages(self) -> tuple[str, str, str, str]:
        """Names of synthesizer, augmenter, filter and distiller."""
        spec = self.spec
        return spec.synthesizer.name, spec.augmenter.name, spec.filter.name, spec.distiller.name

    @property
    def mean(self) -> float | None:
        """Mean accuracy of the last epoch; None if no run finished."""
        return self.statistics.mean

    @property
    def half_width(self) -> float | None:
        """Half of the mean's 95 % interval, in points."""
        return self.statistics.half_width

    @property
    def finished(self) -> tuple[Run, ...]:
        """The runs that have an accuracy; their points are `statistics.points`, in this order."""
        return tuple(run for run in self.runs if run.accuracy is not None)

    @property
    def lost(self) -> tuple[Run, ...]:
        """The runs that have none."""
        return tuple(run for run in self.runs if run.accuracy is None)

    @property
    def state(self) -> RowState:
        """Whether all runs finished."""
        if not self.lost:
            return "finished"
        return "partly failed" if self.finished else "failed"

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why runs did not finish, a text for each."""
        return tuple(
            f"seed {run.seed}: {run.status}, last good epoch {run.last_good_epoch}: {run.reason or 'no reason known'}"
            for run in self.lost
        )

    @property
    def hardware(self) -> tuple[str, ...]:
        """What its runs ran on, without repeats, sorted."""
        return tuple(sorted({run.hardware for run in self.runs}))

    @property
    def claim(self) -> Comparison | None:
        """The published number to print beside the row's, where there is room for one; None if there is none.

        One that was compared, from the authors themselves if there is one; else one of another setting.
        """
        order: dict[Verdict, int] = {"reproduced": 0, "not reproduced": 0, "not tried": 1, "other setting": 2}
        with_number = [found for found in self.comparisons if found.claim.top1 is not None]
        key = lambda found: (order[found.verdict], found.claim.grade != "primary")  # noqa: E731
        return min(with_number, key=key, default=None)


@dataclass(frozen=True, slots=True)
class Cell:
    """Rows that may be compared.

    Attributes:
        key: what they share.
        rows: methods first, then null baselines, then references; within a kind the highest mean first, rows without
            one last.
        paired: whether differences between ranked rows were taken seed by seed.
        smallest_difference: the smallest difference of two means that this number of seeds is sure to show, in points;
            None with fewer than two ranked rows.
        teacher_accuracy: the teacher's test accuracy; None if unknown.
    """

    key: CellKey
    rows: tuple[Row, ...]
    paired: bool
    smallest_difference: float | None
    teacher_accuracy: float | None

    def of_kind(self, kind: MethodKind) -> tuple[Row, ...]:
        """Its rows of one kind, in their order."""
        return tuple(row for row in self.rows if row.kind == kind)


@dataclass(frozen=True, slots=True)
class AcrossMethod:
    """One method over several cells.

    Attributes:
        method: its name.
        cells: in how many cells it has one row and an accuracy.
        middle: interquartile mean of its accuracies, each as a percentage of its teacher's, over the cells that *all*
            methods of the summary have; None without such cells, or where a teacher's accuracy is not known.
    """

    method: str
    cells: int
    middle: Middle | None


@dataclass(frozen=True, slots=True)
class AcrossPair:
    """Method `a` against method `b` over the cells that both have.

    Attributes:
        a: a method's name.
        b: another's.
        difference: mean paired difference with its sign-flip p.
        p: that p after Holm's correction over the summary's pairs.
        improvement: the probability that a run of `a` beats one of `b`.
    """

    a: str
    b: str
    difference: Difference
    p: float
    improvement: Improvement


@dataclass(frozen=True, slots=True)
class Across:
    """Methods over the cells of one preset and protocol.

    Null baselines and references are not in it, nor a method's rows in a cell where it has several: which of them is
    the method nobody can say.

    Attributes:
        preset: of all its cells.
        protocol: of all its cells.
        cells: the cells with at least two of the methods.
        shared: in how many of them all methods are.
        methods: every method that is in at least two cells; highest middle first.
        pairs: each two of them that have a seed in common in at least two cells, the first of `methods` first.
    """

    preset: str
    protocol: Protocol
    cells: tuple[CellKey, ...]
    shared: int
    methods: tuple[AcrossMethod, ...]
    pairs: tuple[AcrossPair, ...]


@dataclass(frozen=True, slots=True)
class Table:
    """The leaderboard.

    Attributes:
        cells: sorted by dataset, preset, protocol, pair and teacher.
        across: a summary for each preset and protocol with at least two cells to compare over.
        left_out: files that look like records and are not in the table: which and why, a sentence for each.
        notes: what a reader must know of the whole: mixed teachers, code versions, precisions; contradictions.
        runs: how many runs are in it.
    """

    cells: tuple[Cell, ...]
    across: tuple[Across, ...] = ()
    left_out: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    runs: int = 0

    def rows(self) -> Iterator[tuple[CellKey, Row]]:
        """Every row with its cell's key, in order."""
        for cell in self.cells:
            for row in cell.rows:
                yield cell.key, row
