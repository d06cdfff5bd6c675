"""Published numbers, each with its source, and how a measured one compares. Imports no torch.

The numbers lie in `claims.csv` beside this file. Where sources disagree, each stands: none is chosen, none is averaged.
`claims-methods.csv` says which method of ours a published name stands for, and with which of its presets it can be
compared: patterns, with spaces between them. Without a preset it is found under our method's name and never compared,
since the published run is of another kind than any preset of ours. `none` under `teacher`: it was trained without one.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, computed_field, model_validator

from dfkd_bench.errors import DfkdError

__all__ = [
    "LARGEST_TOLERANCE",
    "TEACHER",
    "TOLERANCE",
    "Claim",
    "Comparison",
    "Measurement",
    "Verdict",
    "compare",
    "compare_all",
    "load_claims",
    "load_methods",
    "published_methods",
    "select",
    "untried",
]

#: The method name under which teachers' accuracies are published.
TEACHER = "teacher_scratch"
#: A mean within so many points of a claim reproduces it, whatever its interval.
TOLERANCE = 1.0
#: Nor does a wide interval reproduce anything: beyond so many points it no longer counts.
LARGEST_TOLERANCE = 2.0

Verdict = Literal["reproduced", "not reproduced", "other setting", "not tried"]

_FILE = Path(__file__).with_name("claims.csv")
_METHODS_FILE = Path(__file__).with_name("claims-methods.csv")
_COLUMNS = ["method", "dataset", "teacher", "student", "top1", "reported_hours", "grade", "source", "notes"]
_METHODS_COLUMNS = ["published", "method", "presets", "teacher", "notes"]
_ARXIV = re.compile(r"\barXiv[: ]\s*(\d{4}\.\d{4,5})\b", re.IGNORECASE)

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\r\n]*$")]
_Row = TypeVar("_Row", bound=BaseModel)
_Optional = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^\r\n]*$")]


class _Ours(BaseModel):
    """The method and the presets of ours that a published name stands for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    published: _Text
    method: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    presets: Annotated[str, StringConstraints(pattern=r"^([a-z0-9*-]+( [a-z0-9*-]+)*)?$")]
    teacher: Literal["", "none"]
    notes: _Optional


class Claim(BaseModel):
    """One published number, as its source prints it.

    Attributes:
        method: the name under which it was published.
        dataset: the dataset, `unspecified` where the source does not say.
        teacher: the teacher's network; empty or `unspecified` where there is none or the source does not say.
        student: the student's network, likewise.
        top1: accuracy on the test split in percent; None where only hours were published.
        reported_hours: hours of computation as published, on whatever hardware.
        grade: `primary`, from the authors' own paper, repository or log, or `secondary`.
        source: where the number stands.
        notes: what a reader should know of it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    method: _Text
    dataset: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]*$")]
    teacher: _Optional
    student: _Optional
    top1: Annotated[float | None, Field(ge=0, le=100, allow_inf_nan=False)]
    reported_hours: Annotated[float | None, Field(gt=0, allow_inf_nan=False)]
    grade: Literal["primary", "secondary"]
    source: _Text
    notes: _Optional

    @model_validator(mode="after")
    def _says_something(self) -> Claim:
        if self.top1 is None and self.reported_hours is None:
            raise ValueError("neither top1 nor reported_hours")
        return self

    @property
    def pair(self) -> str:
        """`TEACHER:STUDENT`; a reference has one of the two only."""
        return f"{self.teacher}:{self.student}"

    @computed_field  # type: ignore[prop-decorator]
    @property
    def ours(self) -> str | None:
        """Our method's name, or None if we have none for it."""
        found = _ours().get(self.method)
        return None if found is None else found.method

    @computed_field  # type: ignore[prop-decorator]
    @property
    def arxiv(self) -> str | None:
        """The arXiv id that the source names, of the text that prints the number, which need not be the method's."""
        found = _ARXIV.search(self.source)
        return None if found is None else found[1]

    @property
    def presets(self) -> tuple[str, ...]:
        """Patterns of the presets of ours that it can be compared with; empty if there are none."""
        found = _ours().get(self.method)
        return () if found is None else tuple(found.presets.split())


@dataclass(frozen=True, slots=True)
class Measurement:
    """A row of ours, or one that is still to be measured.

    Attributes:
        method: our method's name.
        dataset: the dataset.
        pair: `TEACHER:STUDENT`.
        preset: the preset's name. One whose options were changed is no preset: give another name.
        mean: mean accuracy of the last epoch in percent; None if nothing has been measured.
        half_width: half of its interval in points; None with too few seeds for one.
        teacher_accuracy: our teacher's accuracy in percent.
    """

    method: str
    dataset: str
    pair: str
    preset: str
    mean: float | None = None
    half_width: float | None = None
    teacher_accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """A claim beside a measurement.

    Attributes:
        claim: the published number.
        verdict: see `compare`.
        gap: measured minus claimed, in points; None unless both were compared.
        teacher_claimed: the teacher's accuracy on this dataset that the claim's source prints; None if it prints none.
        teacher_measured: the accuracy of our teacher.
    """

    claim: Claim
    verdict: Verdict
    gap: float | None
    teacher_claimed: float | None
    teacher_measured: float | None


def load_claims(path: Path = _FILE) -> list[Claim]:
    """The published numbers, in the file's order.

    Raises:
        DfkdError: the file cannot be read, or a row is malformed; it names the line.
    """
    return [_checked(Claim, row, where) for row, where in _rows(path, _COLUMNS)]


def load_methods(path: Path = _METHODS_FILE) -> dict[str, _Ours]:
    """What each published name stands for, by that name.

    Raises:
        DfkdError: the file cannot be read, a row is malformed, or a name stands there twice; it names the line.
    """
    found: dict[str, _Ours] = {}
    for row, where in _rows(path, _METHODS_COLUMNS):
        ours = _checked(_Ours, row, where)
        if ours.published in found:
            raise DfkdError(f"{where}: {ours.published!r} stands there twice")
        found[ours.published] = ours
    return found


@functools.cache
def _ours() -> dict[str, _Ours]:
    return load_methods()


def _rows(path: Path, columns: list[str]) -> Iterator[tuple[dict[str, str], str]]:
    """Each row with the place where it stands."""
    start = 1
    try:
        with path.open(encoding="utf-8", newline="") as file:
            # Not DictReader: it makes nothing of a missing field and hides one too many.
            reader = csv.reader(file, strict=True)
            if next(reader, None) != columns:
                raise DfkdError(f"{path}, line 1: the columns are not {','.join(columns)}")
            start = reader.line_num + 1
            for fields in reader:
                where = f"{path}, line {start}"
                if len(fields) != len(columns):
                    raise DfkdError(
                        f"{where}: {len(fields)} fields in place of {len(columns)}: fix its commas and quotes"
                    )
                yield dict(zip(columns, fields, strict=True)), where
                start = reader.line_num + 1
    except OSError as error:
        raise DfkdError(f"cannot read the claims in {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DfkdError(f"{path} is no UTF-8 text: save it as that") from error
    except csv.Error as error:
        raise DfkdError(f"{path}, line {start}: no CSV row ({error}): fix its quotes") from error


def _checked(model: type[_Row], row: dict[str, str], where: str) -> _Row:
    numbers = {name: row[name].strip() or None for name in ("top1", "reported_hours") if name in row}
    try:
        return model.model_validate(row | numbers)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "row"
        raise DfkdError(f"{where}: {field}: {first['msg']}, got {first['input']!r}") from error


def published_methods() -> dict[str, str]:
    """The published method names that we have a method for -> our method's name."""
    return {name: ours.method for name, ours in _ours().items()}


def select(
    claims: Iterable[Claim], *, method: str | None = None, dataset: str | None = None, pair: str | None = None
) -> list[Claim]:
    """The claims of a method (by its published name or by ours), dataset and pair; None takes all.

    Upper and lower case are the same in a method's name.
    """
    return [
        claim
        for claim in claims
        if (method is None or method.casefold() in {claim.method.casefold(), (claim.ours or "").casefold()})
        and dataset in {None, claim.dataset}
        and pair in {None, claim.pair}
    ]


def compare(claim: Claim, measured: Measurement, claims: Sequence[Claim] = ()) -> Comparison:
    """A claim beside a measurement, with a verdict.

    * `other setting`: the claim is of another method, dataset or pair, or the preset is not one that the claim can be
      compared with (a `paper` preset, of those the fitting one), or only hours were published;
    * `not tried`: it fits, and nothing has been measured;
    * `reproduced`: the mean lies within `TOLERANCE` points of the claim, or within the half-width of its own interval
      if that is wider, `LARGEST_TOLERANCE` points at most: a wide interval of few seeds shows nothing;
    * `not reproduced`: it lies further away, on either side. The gap has the side, the teachers often the reason.

    Args:
        claim: the published number.
        measured: our row.
        claims: where the source's own number for the teacher is looked up.
    """
    verdict, gap = _verdict(claim, measured)
    return Comparison(claim, verdict, gap, _teacher(claim, claims), measured.teacher_accuracy)


def untried(claim: Claim) -> Verdict:
    """The verdict on a claim that nothing measured fits: one that could be compared was not tried."""
    return "not tried" if claim.top1 is not None and claim.presets else "other setting"


def compare_all(claims: Sequence[Claim], measured: Measurement) -> list[Comparison]:
    """Every claim of the measured method on its dataset and pair, in the claims' order; see `compare`."""
    return [
        compare(claim, measured, claims)
        for claim in claims
        if claim.ours == measured.method and _same_cell(claim, measured)
    ]


def _same_cell(claim: Claim, measured: Measurement) -> bool:
    teacher, _, student = measured.pair.partition(":")
    # A student trained without a teacher is published without one.
    ours = _ours().get(claim.method)
    alone = not claim.teacher and ours is not None and ours.teacher == "none"
    return claim.dataset == measured.dataset and claim.student == student and (alone or claim.teacher == teacher)


def _verdict(claim: Claim, measured: Measurement) -> tuple[Verdict, float | None]:
    fits = claim.ours == measured.method and _same_cell(claim, measured)
    if not fits or claim.top1 is None or not any(fnmatchcase(measured.preset, preset) for preset in claim.presets):
        return "other setting", None
    if measured.mean is None:
        return "not tried", None
    gap = measured.mean - claim.top1
    tolerance = max(TOLERANCE, min(measured.half_width or 0.0, LARGEST_TOLERANCE))
    # A gap of one point is one, though 2.14 - 1.14 is a little more to the machine.
    return "reproduced" if abs(gap) <= tolerance + 1e-9 else "not reproduced", gap


def _teacher(claim: Claim, claims: Sequence[Claim]) -> float | None:
    """What the claim's own source, or another text of the same arXiv id, prints for the teacher."""
    of_teacher = [
        other
        for other in claims
        if other.method == TEACHER and (other.dataset, other.teacher) == (claim.dataset, claim.teacher)
    ]
    same = [other.top1 for other in of_teacher if other.source == claim.source]
    same += [other.top1 for other in of_teacher if claim.arxiv is not None and other.arxiv == claim.arxiv]
    return next(iter(same), None)
