"""Records -> runs in groups, one group for each row. Of each record only a few numbers are kept. Imports no torch."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

from dfkd_bench.errors import DfkdError
from dfkd_bench.leaderboard.model import CellKey, Run
from dfkd_bench.method import Prior
from dfkd_bench.results.records import Environment, Record
from dfkd_bench.spec import RunSpec

__all__ = ["PRIORS", "Collection", "Group", "Point", "collect"]

PRIORS: tuple[Prior, ...] = get_args(Prior)


class Point(NamedTuple):
    """What a row wants to know of one run, beside what a reader sees of it."""

    run: Run
    prior: Prior | None
    teacher_accuracy: float | None
    teacher_source: str | None
    test_images: int | None
    synthesized: int
    augmented: int
    kept: int
    in_bank: int
    target_agreement: float | None
    seconds: dict[str, float]
    flops: dict[str, float]
    peak_memory: float | None
    environment: Environment


@dataclass(slots=True)
class Group:
    """The runs of one row.

    Attributes:
        key: the cell that it belongs to.
        spec: of its lowest seed.
        precision: what the networks were computed in.
        code: versions of the packages with plugins, and hashes of their source, by name.
        points: by seed.
    """

    key: CellKey
    spec: RunSpec
    precision: str
    code: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)


@dataclass(slots=True)
class Collection:
    """All groups, what was left out, and what a reader must know."""

    groups: list[Group]
    left_out: list[str]
    notes: list[str]


_Key = tuple[str, str, str, str]  # settings, precision, teacher, test split


def collect(records: Iterable[Record], root: Path, left_out: list[str] | None = None) -> Collection:
    """Sort records into the rows of a table.

    A run that ended before its teacher was known goes to the runs that were to have the same one, if those had one
    teacher and one test split. Runs that differ in nothing but the version or the source of a package are two rows. A
    run whose record lies in two folders counts once; if the two disagree, the first that finished counts, and a note
    says so.

    Args:
        records: any number of them, in any order.
        root: the results folder.
        left_out: sentences for records that could not be read; those for records without sense are added to it.
    """
    left_out = [] if left_out is None else left_out
    found: dict[_Key, list[Point]] = defaultdict(list)
    specs: dict[_Key, RunSpec] = {}
    point_of = _Points(root)
    for record in records:
        try:
            point = point_of(record)
        except DfkdError as error:
            left_out.append(str(error))
            continue
        teacher = record.spec.teacher.sha256 or "" if record.teacher is None else record.teacher.sha256
        key = (record.spec.settings, _precision(record.environment), teacher, record.test_split or "")
        if key not in specs or record.spec.seed < specs[key].seed:
            specs[key] = record.spec
        found[key].append(point)
    _adopt(found, specs)
    notes: list[str] = []
    groups = []
    for key, points in found.items():
        spec = specs[key]
        cell = CellKey(spec.dataset, spec.pair.teacher, spec.pair.student, spec.preset, spec.protocol, key[2], key[3])
        for code, same_code in _by_code(points):
            once = _once(same_code, notes)
            lowest = once[0].run.seed
            own = spec if spec.seed == lowest else spec.with_seeds([lowest])[0]
            groups.append(Group(cell, own, key[1], code, once))
    return Collection(groups, left_out, notes)


def _precision(environment: Environment) -> str:
    """What the networks were computed in; a compiler rounds otherwise, and takes other seconds."""
    return f"{environment.precision} compiled" if environment.compiled else environment.precision


def _adopt(found: dict[_Key, list[Point]], specs: dict[_Key, RunSpec]) -> None:
    """Give runs that ended early the teacher and test split of the others that asked for the same teacher."""

    def asked(key: _Key) -> tuple[str, str, str]:
        spec = specs[key]
        return spec.dataset, spec.pair.teacher, spec.teacher.model_dump_json()

    known: dict[tuple[str, str, str], set[tuple[str, str]]] = defaultdict(set)
    early = []
    for key in found:
        if key[2] and key[3]:
            known[asked(key)].add(key[2:])
        else:
            early.append(key)
    for key in early:
        ends = {end for end in known[asked(key)] if key[2] in {"", end[0]} and key[3] in {"", end[1]}}
        if len(ends) != 1:
            continue
        new = (key[0], key[1], *ends.pop())
        spec = specs.pop(key)
        if new not in specs or spec.seed < specs[new].seed:
            specs[new] = spec
        found[new].extend(found.pop(key))


#: Source of the core: every edit of it changes the hash, though few change a result. Runs that differ in nothing else
#: are one row, whose code has both hashes.
_CORE = "dfkd_bench source"


def _by_code(points: list[Point]) -> list[tuple[dict[str, str], list[Point]]]:
    """The points by the versions of packages, and the hashes of their source, of which there are several; with all."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for environment in {id(point.environment): point.environment for point in points}.values():
        for name, version in _code(environment).items():
            found[name][version] = None
    mixed = sorted(name for name, versions in found.items() if len(versions) > 1 and name != _CORE)
    if not mixed:
        return [({name: " + ".join(sorted(versions)) for name, versions in sorted(found.items())}, points)]
    parts: dict[tuple[str, ...], list[Point]] = defaultdict(list)
    for point in points:
        code = _code(point.environment)
        parts[tuple(code.get(name, "") for name in mixed)].append(point)
    return [(_by_code(part)[0][0], part) for part in parts.values()]


def _code(environment: Environment) -> dict[str, str]:
    """Versions of the distributions with plugins, and hashes of the packages' source where the record has them."""
    source: dict[str, str] = environment.code or {}  # records of earlier versions have none
    return environment.plugins | {f"{package} source": digest for package, digest in source.items()}


def _once(points: list[Point], notes: list[str]) -> list[Point]:
    """Each run once, by seed."""
    chosen: dict[str, Point] = {}
    for point in points:
        other = chosen.setdefault(point.run.run, point)
        if other is point:
            continue
        if other.run.accuracy is None and point.run.accuracy is not None:
            chosen[point.run.run] = point
        elif point.run.accuracy not in {None, other.run.accuracy}:
            notes.append(
                f"Run {point.run.run} lies in {other.run.folder} with {other.run.accuracy} % and in "
                f"{point.run.folder} with {point.run.accuracy} %: the first counts."
            )
    return sorted(chosen.values(), key=lambda point: (point.run.seed, point.run.run))


class _Points:
    """Makes points of records; what many have in common is kept once."""

    def __init__(self, root: Path) -> None:
        self._root = f"{root}/"
        self._environments: dict[str, Environment] = {}
        self._known: dict[int, tuple[Environment, Environment]] = {}  # by identity, with what keeps it

    def __call__(self, record: Record) -> Point:
        """One record's point.

        Raises:
            DfkdError: the record says something that cannot be; the sentence names its file.
        """
        folder = str(record.folder or "")
        where = f"{folder}/record.json" if folder else f"the record of run {record.run}"
        accuracy, bank, cost = record.accuracy, record.bank, record.cost
        if (record.status == "finished") != (accuracy is not None):
            raise DfkdError(f"{where}: status {record.status} {'without' if accuracy is None else 'with'} an accuracy")
        if accuracy is not None:
            _percent(where, "last", accuracy.last)
            _percent(where, "oracle_best", accuracy.oracle_best)
            _percent(where, "agreement", accuracy.agreement)
        if record.teacher is not None:
            _percent(where, "teacher", record.teacher.accuracy)
        if bank.target_agreement is not None:
            _percent(where, "target_agreement", bank.target_agreement)
        spent = {phase: _spent(where, phase, of_phase) for phase, of_phase in cost.items()}
        seconds = {phase: found[0] for phase, found in spent.items()}
        run = Run(
            run=record.run,
            seed=record.spec.seed,
            status=record.status,
            reason=record.reason,
            accuracy=None if accuracy is None else accuracy.last,
            oracle_best=None if accuracy is None else accuracy.oracle_best,
            oracle_epoch=None if accuracy is None else accuracy.oracle_epoch,
            agreement=None if accuracy is None else accuracy.agreement,
            last_good_epoch=record.last_good_epoch,
            seconds=sum(seconds.values()),
            hardware=sys.intern(record.environment.hardware),
            started=record.started,
            finished=record.finished,
            folder=folder.removeprefix(self._root).replace("\\", "/"),
            curve_sha256=record.curve_sha256,
            images=record.images,
        )
        return Point(
            run=run,
            prior=max(record.priors.values(), key=PRIORS.index, default=None),
            teacher_accuracy=None if record.teacher is None else record.teacher.accuracy,
            teacher_source=None if record.teacher is None else sys.intern(record.teacher.source),
            test_images=_test_images(record),
            synthesized=bank.synthesized,
            augmented=bank.augmented,
            kept=bank.kept,
            in_bank=bank.in_bank,
            target_agreement=bank.target_agreement,
            seconds=seconds,
            flops={phase: found[1] for phase, found in spent.items()},
            peak_memory=max((found[2] for found in spent.values()), default=None),
            environment=self._environment(record.environment),
        )

    def _environment(self, found: Environment) -> Environment:
        # Records that are read one after the other have the very same one.
        known = self._known.get(id(found))
        if known is None:
            known = found, self._environments.setdefault(found.model_dump_json(), found)
            self._known[id(found)] = known
        return known[1]


def _percent(where: str, name: str, number: float) -> None:
    if not 0 <= number <= 100:  # nor NaN
        raise DfkdError(f"{where}: {name} is {number}, which is no percentage")


def _spent(where: str, phase: str, spent: dict[str, Any]) -> list[float]:
    """Seconds, FLOPs and peak memory."""
    found = []
    for name in ("seconds", "flops", "peak_memory"):
        value: Any = spent.get(name)
        if type(value) not in {int, float} or not 0 <= value < math.inf:
            raise DfkdError(f"{where}: the phase {phase!r} has {name} {value!r} where a number of at least 0 is wanted")
        found.append(value)
    return found


def _test_images(record: Record) -> int | None:
    """How many images the test split has: a record has not that number, but what all its evaluations looked at."""
    looked_at = record.cost["evaluation"]["images"] if "evaluation" in record.cost else None
    if record.accuracy is None or not isinstance(looked_at, int) or record.last_good_epoch < 1:
        return None
    images, rest = divmod(looked_at, record.last_good_epoch)
    if rest or not images:
        return None
    right = record.accuracy.last / 100 * images
    # The accuracy, which has four decimals, must be that of a whole number of images.
    return images if abs(right - round(right)) <= 1e-6 * images + 1e-9 else None
