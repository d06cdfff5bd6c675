"""A results folder -> the leaderboard's model. Imports no torch."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Protocol

from dfkd_bench.card import DatasetCard
from dfkd_bench.errors import DfkdError
from dfkd_bench.leaderboard.claims import Claim, Comparison, Measurement, compare_all, load_claims
from dfkd_bench.leaderboard.collect import PRIORS, Collection, Group, Point, collect
from dfkd_bench.leaderboard.model import KINDS, Cell, CellKey, Costs, Images, Row, Table
from dfkd_bench.leaderboard.statistics import Points, RowStatistics, describe, oracle_premium, sampling_error
from dfkd_bench.leaderboard.summary import summarize
from dfkd_bench.leaderboard.ties import Standing, rank
from dfkd_bench.leaderboard.variants import variants
from dfkd_bench.method import Method, MethodKind, Prior
from dfkd_bench.no_gc import without_gc
from dfkd_bench.results.code import changed
from dfkd_bench.results.records import Record, Results
from dfkd_bench.spec import RunSpec

__all__ = ["Known", "build_table", "read_table"]


class Known(Protocol):
    """What is installed, as far as a leaderboard asks (`planning.installed.Installed`)."""

    def method(self, name: str) -> Method | None:
        """The recipe of this name, None if nobody provides it."""

    def card(self, dataset: str) -> DatasetCard | None:
        """The dataset's card, None if nobody provides it."""

    def changed(self, spec: RunSpec) -> bool | None:
        """Whether a run's options are other than its preset's; None if that cannot be known."""


def read_table(
    results: Results, known: Known | None = None, report: Callable[[DfkdError], None] | None = None
) -> Table:
    """The leaderboard of every record below a results folder.

    Args:
        results: the folder.
        known: what is installed. Without it every row without real data is a method, and no claim is compared.
        report: called with what is wrong with each file that is left out; `Table.left_out` has it, too.

    Raises:
        DfkdError: a folder cannot be read.
    """
    left_out: list[str] = []

    def leave_out(error: DfkdError) -> None:
        left_out.append(str(error))

    with without_gc():
        collection = collect(results.records(leave_out), results.path, left_out)
        if report is not None:
            for sentence in collection.left_out:
                report(DfkdError(sentence))
        return _table(collection, known)


def build_table(records: Iterable[Record], known: Known | None = None, root: Path = Path()) -> Table:
    """The leaderboard of some records; see `read_table`. `root` is the folder that their paths are relative to."""
    return _table(collect(records, root), known)


def _table(collection: Collection, known: Known | None) -> Table:
    by_cell: dict[CellKey, list[Group]] = defaultdict(list)
    for group in collection.groups:
        by_cell[group.key].append(group)
    claims = _Claims(load_claims(), known)
    cells = tuple(_cell(key, by_cell[key], known, claims) for key in sorted(by_cell, key=_order))
    notes = [*_mixed(cells), *(_stale(cells) if known is not None else ()), *collection.notes]
    runs = sum(len(group.points) for group in collection.groups)
    return Table(cells, summarize(cells), tuple(collection.left_out), tuple(notes), runs)


def _order(key: CellKey) -> tuple[str, ...]:
    return key.dataset, key.preset, key.protocol, key.teacher, key.student, key.teacher_sha256, key.test_split


def _cell(key: CellKey, groups: Sequence[Group], known: Known | None, claims: _Claims) -> Cell:
    kinds = [_kind(group, known) for group in groups]
    points = [_points(group) for group in groups]
    compared = [at for at, kind in enumerate(kinds) if kind == "method"]
    ranking = rank([points[at] for at in compared])
    statistics = dict(zip(compared, describe([points[at] for at in compared]), strict=True))
    standings = dict(zip(compared, ranking.standings, strict=True))
    names = variants([(group.spec, group.precision, group.code) for group in groups])
    rows = []
    for at, group in enumerate(groups):
        # Nulls and references lend their variance to nobody, and borrow none.
        own = statistics[at] if at in statistics else describe([points[at]])[0]
        rows.append(_row(group, kinds[at], names[at], own, standings.get(at, Standing(place=None)), claims))
    rows.sort(key=lambda row: (KINDS.index(row.kind), row.mean is None, -(row.mean or 0.0), row.method, row.id))
    teacher = next((row.teacher_accuracy for row in rows if row.teacher_accuracy is not None), None)
    return Cell(key, tuple(rows), ranking.paired, ranking.smallest_difference, teacher)


def _points(group: Group) -> Points:
    return {point.run.seed: point.run.accuracy for point in group.points if point.run.accuracy is not None}


def _prior(group: Group) -> Prior | None:
    return max((p.prior for p in group.points if p.prior is not None), key=PRIORS.index, default=None)


def _kind(group: Group, known: Known | None) -> MethodKind:
    if _prior(group) == "data":
        return "reference"
    method = known.method(group.spec.method) if known is not None else None
    return "method" if method is None else method.kind


def _row(group: Group, kind: MethodKind, variant: str, own: RowStatistics, standing: Standing, claims: _Claims) -> Row:
    spec, done = group.spec, [point for point in group.points if point.run.accuracy is not None]
    teacher = next((p.teacher_accuracy for p in group.points if p.teacher_accuracy is not None), None)
    sizes = {point.test_images for point in done}
    test_images = sizes.pop() if len(sizes) == 1 else None
    oracle = _mean(point.run.oracle_best for point in done)
    changed, comparisons = claims.of(spec, own, teacher)
    return Row(
        id=_id(group),
        method=spec.method,
        kind=kind,
        variant=variant,
        changed=changed,
        prior=_prior(group),
        spec=spec,
        settings=spec.settings,
        runs=tuple(point.run for point in group.points),
        statistics=own,
        standing=standing,
        sampling=None if own.mean is None or test_images is None else sampling_error(own.mean, test_images),
        test_images=test_images,
        oracle_best=oracle,
        oracle_premium=oracle_premium(oracle, own.mean),
        agreement=_mean(point.run.agreement for point in done),
        teacher_accuracy=teacher,
        teacher_sources=tuple(sorted({point.teacher_source for point in group.points if point.teacher_source})),
        comparisons=comparisons,
        images=_images(done) if done else None,
        costs=_costs(spec, done) if done else None,
        environments=tuple({id(point.environment): point.environment for point in group.points}.values()),
        code=group.code,
        precision=group.precision,
    )


def _id(group: Group) -> str:
    key, code = group.key, [f"{name}={version}" for name, version in group.code.items()]
    rest = "\0".join((key.teacher_sha256, key.test_split, group.precision, *code))
    return f"{group.spec.settings}-{hashlib.sha256(rest.encode()).hexdigest()[:6]}"


def _images(done: Sequence[Point]) -> Images:
    augmented = sum(point.augmented for point in done)
    return Images(
        synthesized=fmean(point.synthesized for point in done),
        augmented=augmented / len(done),
        kept_percent=100 * sum(point.kept for point in done) / augmented if augmented else None,
        in_bank=fmean(point.in_bank for point in done),
        target_agreement=_mean(point.target_agreement for point in done),
    )


def _costs(spec: RunSpec, done: Sequence[Point]) -> Costs:
    flops = _by_phase([point.flops for point in done])
    seconds = _by_phase([point.seconds for point in done])
    return Costs(
        flops=sum(flops.values()),
        flops_by_phase=flops,
        seconds=sum(seconds.values()),
        seconds_by_phase=seconds,
        distillation_samples=spec.schedule.steps_until(spec.schedule.epochs) * spec.schedule.batch_size,
        peak_memory=max((int(p.peak_memory) for p in done if p.peak_memory is not None), default=None),
    )


def _by_phase(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    phases = dict.fromkeys(phase for spent in found for phase in spent)
    return {phase: fmean(spent.get(phase, 0.0) for spent in found) for phase in phases}


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


class _Claims:
    """The published numbers, looked up by row."""

    def __init__(self, claims: Sequence[Claim], known: Known | None) -> None:
        self._claims, self._known = claims, known
        self._claimed = {(claim.ours, claim.dataset) for claim in claims}

    def of(
        self, spec: RunSpec, own: RowStatistics, teacher: float | None
    ) -> tuple[bool | None, tuple[Comparison, ...]]:
        """Whether the row's options are other than the preset's, if that was asked, and every claim for it."""
        if (spec.method, spec.dataset) not in self._claimed:
            return None, ()
        changed = None if self._known is None else self._known.changed(spec)
        # Published runs have the authors' own budget and options; what differs from them or may differ is no preset.
        preset = spec.preset if changed is False and spec.protocol == "native" else ""
        measured = Measurement(spec.method, spec.dataset, str(spec.pair), preset, own.mean, own.half_width, teacher)
        return changed, tuple(compare_all(self._claims, measured))


def _stale(cells: Sequence[Cell]) -> Iterable[str]:
    """Which rows other source of their plugins made than is installed here."""
    rows = [row for cell in cells for row in cell.rows]
    edited = {row.id: {name for found in row.environments for name in changed(found.code)} for row in rows}
    names = {name for found in edited.values() for name in found}
    if names:
        count = sum(bool(found) for found in edited.values())
        were = "1 row was" if count == 1 else f"{count} rows were"
        yield (
            f"Stale: {were} measured with other code of {', '.join(sorted(names))} than is installed here; "
            "run --rerun stale measures again."
        )


def _mixed(cells: Sequence[Cell]) -> Iterable[str]:
    """What differs between rows that a reader may take for comparable."""
    teachers: dict[tuple[str, str], set[str]] = defaultdict(set)
    splits: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        key = cell.key
        teachers[key.dataset, key.teacher] |= {key.teacher_sha256} - {""}
        splits[key.dataset] |= {key.test_split} - {""}
    for (dataset, network), found in teachers.items():
        if len(found) > 1:
            yield f"Mixed teachers: rows of {dataset} {network} come from {len(found)} different ones."
    for dataset, found in splits.items():
        if len(found) > 1:
            yield f"Mixed test splits: rows of {dataset} were measured on {len(found)} different ones."
    precisions = {row.precision for cell in cells for row in cell.rows}
    if any(len({row.precision for row in cell.rows}) > 1 for cell in cells):
        yield f"Mixed precisions: rows of one table were computed in {', '.join(sorted(precisions))}."
    versions: dict[str, set[str]] = defaultdict(set)
    for cell in cells:
        for row in cell.rows:
            for package, version in row.code.items():
                versions[package].add(version)
    for package, found in sorted(versions.items()):
        if len(found) > 1 or " + " in "".join(found):
            yield f"Mixed code: rows were measured with {package} {', '.join(sorted(found))}."
