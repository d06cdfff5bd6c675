"""Runs against each other: what records of one table must have in common, and what they must not. Imports no torch."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from dfkd_bench.results.records import Record
from dfkd_bench.sharing.findings import Finding
from dfkd_bench.spec import TeacherRef

__all__ = ["Digest", "check_between", "check_teacher_names"]


@dataclass(frozen=True, slots=True)
class Digest:
    """The little of a record that others are compared with: there may be very many.

    Attributes:
        path: of the record.
        cell: dataset, pair, preset and protocol: what one comparison is made on.
        teacher_name: what the spec says of the teacher: dataset, network, and recipe or hash.
    """

    path: Path
    run: str
    settings: str
    seed: int
    cell: tuple[str, str, str, str]
    dataset: str
    student: str
    teacher_name: tuple[str, str, TeacherRef]
    teacher: str | None
    teacher_accuracy: float | None
    test_split: str | None
    student_parameters: int | None
    curve: str | None
    title: str
    code: str

    @classmethod
    def of(cls, path: Path, record: Record) -> Digest:
        """Of a record."""
        spec, teacher = record.spec, record.teacher
        shared = tuple(map(sys.intern, (spec.dataset, str(spec.pair), spec.preset, spec.protocol)))
        return cls(
            path=path,
            run=record.run,
            settings=spec.settings,
            seed=spec.seed,
            cell=(shared[0], shared[1], shared[2], shared[3]),
            dataset=sys.intern(spec.dataset),
            student=sys.intern(spec.pair.student),
            teacher_name=(shared[0], spec.pair.teacher, spec.teacher),
            teacher=None if teacher is None else sys.intern(teacher.sha256),
            teacher_accuracy=None if teacher is None else teacher.accuracy,
            test_split=None if record.test_split is None else sys.intern(record.test_split),
            student_parameters=record.student_parameters,
            curve=record.curve_sha256,
            title=spec.title,
            code=sys.intern(", ".join(f"{name} {version}" for name, version in record.environment.plugins.items())),
        )


def check_between(runs: Sequence[Digest]) -> Iterator[Finding]:
    """What does not fit between runs, each thing named at the records that are fewer."""
    yield from _twice(runs)
    yield from _copied_seeds(runs)
    yield from _differ(runs, "teacher.sha256", lambda r: r.cell, lambda r: r.teacher, "mixes teachers")
    yield from _differ(
        runs,
        "teacher.accuracy",
        lambda r: None if r.teacher is None else (r.teacher, r.test_split),
        lambda r: r.teacher_accuracy,
        "contradicts others of the same teacher",
    )
    yield from _differ(runs, "test_split", lambda r: r.dataset, lambda r: r.test_split, "mixes test splits")
    yield from _differ(
        runs,
        "student_parameters",
        lambda r: (r.dataset, r.student),
        lambda r: r.student_parameters,
        "contradicts others of the same student",
    )


def check_teacher_names(runs: Sequence[Digest]) -> Iterator[Finding]:
    """Teachers of one recipe that are not the same weights: trained on two machines, say."""
    yield from _differ(runs, "teacher.sha256", lambda r: r.teacher_name, lambda r: r.teacher, "is another teacher")


def _twice(runs: Iterable[Digest]) -> Iterator[Finding]:
    first: dict[str, Path] = {}
    for run in runs:
        if run.run in first:
            yield Finding(run.path, "run", f"{run.run} is there twice: also in {first[run.run]}")
        first.setdefault(run.run, run.path)


def _copied_seeds(runs: Iterable[Digest]) -> Iterator[Finding]:
    """No two seeds have the same losses to the last digit."""
    first: dict[tuple[str, str], Digest] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        if run.curve is None:
            continue
        other = first.setdefault((run.settings, run.curve), run)
        if other.seed != run.seed:
            yield Finding(
                run.path, "spec.seed", f"is {run.seed}, but the curve is that of seed {other.seed} in {other.path}"
            )


def _differ(
    runs: Iterable[Digest],
    field: str,
    key: Callable[[Digest], Hashable],
    value: Callable[[Digest], Hashable],
    what: str,
) -> Iterator[Finding]:
    groups: dict[Hashable, list[Digest]] = {}
    for run in runs:
        if key(run) is not None and value(run) is not None:
            groups.setdefault(key(run), []).append(run)
    for group in groups.values():
        counts = Counter(map(value, group))
        if len(counts) == 1:
            continue
        (usual, often), *_ = counts.most_common(1)
        for other in counts:
            if other == usual:
                continue
            odd = next(run for run in group if value(run) == other)
            like = next(run for run in group if value(run) == usual)
            yield Finding(
                odd.path,
                field,
                f"{what}: it is {other} here ({counts[other]} of {len(group)}), {usual} in {like.path} ({often})",
            )
