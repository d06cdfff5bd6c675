"""Run specs: everything that decides one result, and its content hash. Imports no torch."""

from __future__ import annotations

import functools
import hashlib
import json
import marshal
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Generic, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    model_validator,
)

from dfkd_bench.card import TeacherRecipe
from dfkd_bench.errors import DfkdError
from dfkd_bench.method import Schedule, StageChoice

__all__ = [
    "MOST_SEEDS",
    "PROTOCOLS",
    "Memo",
    "Pair",
    "Protocol",
    "RecalledSpec",
    "RunSpec",
    "SeedFamily",
    "TeacherRef",
    "content_hash",
]


T = TypeVar("T")
Protocol = Literal["native", "matched"]
#: Of one grid: a slip of the finger must not plan for hours.
MOST_SEEDS = 10_000
PROTOCOLS: tuple[Protocol, ...] = get_args(Protocol)


def content_hash(model: BaseModel) -> str:
    """First 16 hex digits of the SHA-256 of the model's canonical JSON."""
    return _digest(_canonical(model.model_dump(mode="json")))


def _canonical(plain: dict[str, Any]) -> str:
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=True)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class Memo(Generic[T]):
    """Values by the plain data that they are made from: what is equal, 1, 1.0 and true kept apart, is made once.

    It forgets them all when there are too many, and makes anew whatever is more than plain data.
    """

    _MOST = 10_000

    def __init__(self) -> None:
        self._kept = dict[bytes, T]()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, content: Any, make: Callable[[], T]) -> T:
        """The value for `content`."""
        try:
            key = marshal.dumps(content, 2)  # later versions have references, which depend on more than the content
        except ValueError:
            return make()
        found = self._kept.get(key)
        if found is None:
            found = make()
            if len(self._kept) >= self._MOST:
                self._kept.clear()
            self._kept[key] = found
        return found


class Pair(BaseModel):
    """A teacher's and a student's network, written `wrn40_2:wrn16_1`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    teacher: str
    student: str

    @classmethod
    def parse(cls, text: str) -> Pair:
        """From `TEACHER:STUDENT`.

        Raises:
            DfkdError: it is not two names with one colon between them.
        """
        teacher, colon, student = text.strip().partition(":")
        if not colon or not teacher or not student or ":" in student:
            raise DfkdError(f"'{text}' is no pair: write TEACHER:STUDENT, for example wrn40_2:wrn16_1")
        return cls(teacher=teacher, student=student)

    def __str__(self) -> str:
        return f"{self.teacher}:{self.student}"


class TeacherRef(BaseModel):
    """Which teacher: one trained by a recipe, or one given as weights by their hash. Exactly one of the two."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    recipe: TeacherRecipe | None = None
    sha256: str | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> TeacherRef:
        if (self.recipe is None) == (self.sha256 is None):
            raise ValueError("a teacher is either a recipe or a hash of weights")
        return self


class RunSpec(BaseModel):
    """Everything that decides one result.

    Where it runs (device, precision, folders) is not part of it; the record's provenance says that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Literal[1] = 1
    method: str
    synthesizer: StageChoice
    augmenter: StageChoice
    filter: StageChoice
    distiller: StageChoice
    schedule: Schedule
    dataset: str
    pair: Pair
    teacher: TeacherRef
    seed: int = Field(ge=0)
    preset: str
    protocol: Protocol = "native"

    @functools.cached_property
    def hash(self) -> str:
        """The run's identity, 16 hex digits."""
        return content_hash(self)

    @functools.cached_property
    def settings(self) -> str:
        """What runs of different seeds share: 8 hex digits of the hash with seed 0."""
        return self.hash[:8] if self.seed == 0 else self.with_seeds([0])[0].hash[:8]

    def with_seeds(self, seeds: Iterable[int]) -> list[RunSpec]:
        """The same run with other seeds, none negative. Their hashes are cheap: the seed alone is written anew."""
        family = SeedFamily(self)
        return [family.member(seed) for seed in seeds]

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"{self.method} {self.pair} {self.dataset} seed {self.seed}"


class SeedFamily:
    """The specs that differ from one in their seeds alone."""

    def __init__(self, spec: RunSpec) -> None:
        plain = spec.model_dump(mode="json")
        self._spec = spec
        self._before = _canonical({name: value for name, value in plain.items() if name < "seed"})[:-1]
        self._after = _canonical({name: value for name, value in plain.items() if name > "seed"})[1:]
        self._settings = self._hash(0)[:8]

    def _hash(self, seed: int) -> str:
        return _digest(f'{self._before},"seed":{seed},{self._after}')

    def member(self, seed: int) -> RunSpec:
        """The one with this seed, which must not be negative."""
        spec = self._spec.model_copy()
        # What is cached was copied, too: it is the other seed's.
        spec.__dict__.update(seed=seed, hash=self._hash(seed), settings=self._settings)
        return spec


_FAMILIES = Memo[SeedFamily]()


def _recall(value: Any, validate: ValidatorFunctionWrapHandler) -> RunSpec:
    seed = value.get("seed") if isinstance(value, dict) else None
    if type(seed) is not int or seed < 0:
        spec: RunSpec = validate(value)
        return spec
    return _FAMILIES.get({**value, "seed": 0}, lambda: SeedFamily(validate(value))).member(seed)


RecalledSpec = Annotated[RunSpec, WrapValidator(_recall)]
"""A spec in a JSON file of which there are many: if only its seed is new, it is not checked and hashed from scratch."""
