"""Published numbers, each with its source, and how a measured one compares. Imports no torch.

The numbers lie in `claims.csv` beside this file. Where sources disagree, each stands: none is chosen, none is averaged.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, computed_field, model_validator

from dfkd_bench.errors import DfkdError
from dfkd_bench.foreign import read_text

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
    "published_methods",
    "select",
]

#: The method name under which teachers' accuracies are published.
TEACHER = "teacher_scratch"
#: A mean within so many points of a claim reproduces it, whatever its interval.
TOLERANCE = 1.0
#: Nor does a wide interval reproduce anything: beyond so many points it no longer counts.
LARGEST_TOLERANCE = 2.0

Verdict = Literal["reproduced", "not reproduced", "other setting", "not tried"]

_FILE = Path(__file__).with_name("claims.csv")
_COLUMNS = ["method", "dataset", "teacher", "student", "top1", "reported_hours", "grade", "source", "notes"]
_ARXIV = re.compile(r"\barXiv[: ]\s*(\d{4}\.\d{4,5})\b", re.IGNORECASE)

_Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, pattern=r"^[^\r\n]*$")]
_Optional = Annotated[str, StringConstraints(strip_whitespace=True, pattern=r"^[^\r\n]*$")]


@dataclass(frozen=True, slots=True)
class _Ours:
    """The method and the presets of ours that a published name stands for, as patterns."""

    method: str
    presets: tuple[str, ...] = ("paper*",)


# Presets are empty where the published run is of another kind than any preset of ours: it is found under our method's
# name, and never compared.
_OURS: dict[str, _Ours] = {
    # "ADI" is adaptive DeepInversion, and so is the row "DeepInv" of CMI's table, with the same numbers.
    **{name: _Ours("deepinversion") for name in ("DeepInv", "ADI", "DeepInversion")},
    # 2,000 steps; ours takes 1,000.
    "DeepInv-2k": _Ours("deepinversion", ()),
    "DeepInversion (K-Gen's run)": _Ours("deepinversion", ()),
    # CMI's headline begins with some 50,000 inverted images; our `paper` is the released script, which does not.
    **{name: _Ours("cmi", ("paper-bank",)) for name in ("CMI", "CMI-500", "CMI_adversarial", "CMI (AEAHL-RG's table)")},
    "CMI_scratch": _Ours("cmi", ("paper",)),
    "CMI_nonadversarial": _Ours("cmi", ()),
    **{name: _Ours("dafl") for name in ("DAFL", "DAFL (reproduction)")},
    **{f"DAFL (reproduction run {run})": _Ours("dafl") for run in (1, 2)},
    "DAFL (MMRazor)": _Ours("dafl", ()),
    "ZSKT": _Ours("zskt"),
    "ZSKT (MMRazor)": _Ours("zskt", ()),
    "DFAD": _Ours("dfad"),
    "DFAD (MMRazor)": _Ours("dfad", ()),
    **{name: _Ours("dfq") for name in ("DFQ", "DFQ (reproduction)")},
    # FastDFKD with so many inner steps.
    "Fast-2": _Ours("fast", ("paper-2",)),
    "Fast-5": _Ours("fast", ("paper-5",)),
    "Fast-10": _Ours("fast", ("paper", "paper-10")),
    **{name: _Ours("fast", ()) for name in ("Fast-50", "Fast-50 (log)")},
    **{f"FastDFKD (FM-{epochs}, NAYER's re-run)": _Ours("fast", ()) for epochs in (100, 200, 300)},
    "NAYER": _Ours("nayer"),
    "NAYER-100": _Ours("nayer", ("paper-100",)),
    "NAYER-200": _Ours("nayer", ("paper-200",)),
    "NAYER-300": _Ours("nayer", ("paper",)),
    "NAYER 5k-image memory": _Ours("nayer", ()),
    "NAYER with BatchNorm on embeddings (ablation)": _Ours("nayer", ()),
    "NAYER without BatchNorm on embeddings (ablation)": _Ours("nayer", ()),
    "DDA": _Ours("dda"),
    # DataFree prints means over all epochs beside the best ones.
    **{
        f"{name} [mean over training epochs]": _Ours(ours, ())
        for name, ours in (("DAFL", "dafl"), ("DFAD", "dfad"), ("DeepInversion", "deepinversion"), ("CMI", "cmi"))
    },
    "KD_real_data": _Ours("real-data"),
    "student_scratch": _Ours("scratch"),
    # Baselines of the same idea, with other images or a shorter schedule than ours.
    "One-Image": _Ours("one-image", ()),
    "Places365+KD": _Ours("other-dataset", ()),
    "Gaussian noise + BN batch statistics (5-epoch log)": _Ours("noise", ()),
}


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
        found = _OURS.get(self.method)
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
        found = _OURS.get(self.method)
        return () if found is None else found.presets


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
    try:
        text = read_text(path)
    except FileNotFoundError as error:
        raise DfkdError(f"cannot read the claims in {path}: the file is not there") from error
    # Not DictReader: it makes nothing of a missing field and hides one too many.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    start = 1
    try:
        if next(reader, None) != _COLUMNS:
            raise DfkdError(f"{path}, line 1: the columns are not {','.join(_COLUMNS)}")
        claims, start = [], reader.line_num + 1
        for fields in reader:
            claims.append(_claim(fields, f"{path}, line {start}"))
            start = reader.line_num + 1
    except csv.Error as error:
        raise DfkdError(f"{path}, line {start}: no CSV row ({error}): fix its quotes") from error
    return claims


def published_methods() -> dict[str, str]:
    """The published method names that we have a method for -> our method's name."""
    return {name: ours.method for name, ours in _OURS.items()}


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


def compare_all(claims: Sequence[Claim], measured: Measurement) -> list[Comparison]:
    """Every claim of the measured method on its dataset and pair, in the claims' order; see `compare`."""
    return [
        compare(claim, measured, claims)
        for claim in claims
        if claim.ours == measured.method and _same_cell(claim, measured)
    ]


def _claim(fields: list[str], where: str) -> Claim:
    if len(fields) != len(_COLUMNS):
        raise DfkdError(f"{where}: {len(fields)} fields in place of {len(_COLUMNS)}: fix its commas and quotes")
    row = dict(zip(_COLUMNS, fields, strict=True))
    numbers = {name: row[name].strip() or None for name in ("top1", "reported_hours")}
    try:
        return Claim.model_validate(row | numbers)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "row"
        raise DfkdError(f"{where}: {field}: {first['msg']}, got {first['input']!r}") from error


def _same_cell(claim: Claim, measured: Measurement) -> bool:
    teacher, _, student = measured.pair.partition(":")
    # A student trained without a teacher is published without one.
    alone = claim.ours == "scratch" and not claim.teacher
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
