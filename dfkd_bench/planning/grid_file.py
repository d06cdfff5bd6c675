"""Grid files: many runs in one TOML file, checked as a whole; every mistake has its line. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from dfkd_bench.builtin import DEFAULT_DATASET
from dfkd_bench.datasets.access import FOLDER
from dfkd_bench.errors import DfkdError, unknown_name
from dfkd_bench.foreign import own_path, read_text
from dfkd_bench.hooks.registry import STAGE_KINDS, Registry, StageKind
from dfkd_bench.models.build import check_model
from dfkd_bench.planning import toml_lines
from dfkd_bench.planning.compatibility import network_facts
from dfkd_bench.planning.requests import Override, Request, plan
from dfkd_bench.spec import MOST_SEEDS, PROTOCOLS, Pair, RunSpec, TeacherRef
from dfkd_bench.stages.options import OptionError

if TYPE_CHECKING:
    from dfkd_bench.card import DatasetCard

__all__ = ["GridFileError", "Planned", "plan_file", "study_words"]

_TOP = ("methods", "method", "pairs", "datasets", "seeds", "presets", "protocols", "schedule", "teachers", "words")
_METHOD = ("name", "label", "preset", "schedule", *STAGE_KINDS)
_MOST_BYTES = 2**20
_MOST_SEEDS = 10_000
_WORDS = {str: "a text", int: "a whole number", list: "an array", dict: "a table"}


#: A teacher's weights, or how it is trained where not by the dataset's own recipe.
Given = Path | Mapping[str, Any]


class GridFileError(DfkdError):
    """Everything that is wrong in a grid file.

    Args:
        sentences: one for each mistake, `FILE:LINE: what is wrong`, in the order of their lines.
    """

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__("\n".join(sentences))
        self._sentences = tuple(sentences)

    @property
    def sentences(self) -> tuple[str, ...]:
        """One for each mistake."""
        return self._sentences


@dataclass(frozen=True)
class Planned:
    """A run of a grid, and what its file calls the method."""

    spec: RunSpec
    label: str


@dataclass(frozen=True)
class _Entry:
    """One method of the file, with what is set for it."""

    name: str
    label: str
    at: toml_lines.Path
    preset: str | None = None
    swaps: Mapping[StageKind, str] = field(default_factory=dict)
    overrides: Sequence[Override] = ()


def plan_file(
    path: Path,
    registry: Registry,
    card: Callable[[str], DatasetCard],
    teacher: Callable[[str, str, Given | None], TeacherRef],
) -> list[Planned]:
    """Every run of a grid file, each once.

    Args:
        path: the file.
        registry: who provides methods, stages and networks.
        card: a dataset's card by its name.
        teacher: the teacher for a dataset and network, with the file of its weights or other settings of its recipe
            if some are given. Asked for files only when everything else is right.

    Raises:
        GridFileError: what is wrong in the file, all of it.
        DfkdError: the file cannot be read.
    """
    grid = _Grid(path, registry, card)
    grid.check()
    return grid.planned(teacher)


def study_words(path: Path) -> str:
    """What a study's grid file has to say of its records: a template for `leaderboard.study`; empty if it is silent.

    Raises:
        DfkdError: the file cannot be read.
    """
    content, _ = toml_lines.read(read_text(path, _MOST_BYTES))
    words: str = content.get("words", "")
    return words


class _Grid:
    """A grid file while it is read."""

    def __init__(self, path: Path, registry: Registry, card: Callable[[str], DatasetCard]) -> None:
        self.path, self.registry = path, registry
        self.found: list[tuple[int, str]] = []
        self.uses_stand_ins = False
        try:
            self.content, self.lines = toml_lines.read(read_text(path, _MOST_BYTES))
        except FileNotFoundError as error:
            raise DfkdError(f"cannot read the grid file {path}: it is not there") from error
        except toml_lines.TomlError as error:
            raise GridFileError([f"{path}:{error.line}: {error}"]) from error
        self._known_keys((), self.content, _TOP)
        self.presets = self._texts("presets", ["quick"])
        self.protocols = [one for one in self._texts("protocols", ["native"]) if self._protocol(*one)]
        self.seeds = self._seeds()
        self._is(("words",), self.content.get("words", ""), str)
        self.cards = {}
        for at, name in self._texts("datasets", [DEFAULT_DATASET]):
            with _CollectErrors(self, at):
                found = card(self._beside(name))
                self.cards[found.name] = found
        self.pairs = [pair for at, text in self._texts("pairs", None) for pair in self._pair(at, text)]
        self.shared = [
            Override("schedule", option, value) for option, value in self._table(("schedule",), self.content).items()
        ]
        self.entries = [entry for at, value in self._methods() for entry in self._entry(at, value)]
        self.files = dict(self._teachers())

    def add_error(self, at: toml_lines.Path, sentence: object) -> None:
        """Note a mistake at a place, or at the nearest one around it that stands in the file."""
        while at and at not in self.lines:
            at = at[:-1]
        mistake = (self.lines.get(at, 1), str(sentence))
        if mistake not in self.found:
            self.found.append(mistake)

    def check(self) -> None:
        """Plan everything once with the teachers that need no file.

        Raises:
            GridFileError: something is wrong.
        """
        anyone = TeacherRef(sha256="0" * 64)
        self.uses_stand_ins = not (self.cards and self.pairs)
        if self.uses_stand_ins:  # the options are checked all the same, beside a dataset and networks that stand in
            network = next(iter(self.registry.provided("model")), "none")
            self.pairs = self.pairs or [Pair(teacher=network, student=network)]
            first = next((item.card for item in self.registry.provided("dataset").values() if item.card), None)
            self.cards = self.cards or ({first.name: first} if first else {})
        self.protocols = self.protocols or [((), "native")]
        for entry, request, card in self._requests(lambda dataset, network: anyone):
            self._plan(entry, request, card)
        if self.found:
            raise GridFileError([f"{self.path}:{line}: {sentence}" for line, sentence in sorted(self.found)])

    def planned(self, teacher: Callable[[str, str, Given | None], TeacherRef]) -> list[Planned]:
        """The runs with their teachers, the first seed of every row before the second: a table grows evenly."""
        refs: dict[tuple[str, str], TeacherRef] = {}
        for key in [(dataset, pair.teacher) for dataset in self.cards for pair in self.pairs]:
            if key not in refs:
                at, file = self.files.get(key, ((), None))
                try:
                    refs[key] = teacher(*key, file)
                except DfkdError as error:
                    self.add_error(at, error)
                    raise GridFileError([f"{self.path}:{line}: {caught}" for line, caught in self.found]) from error
        runs: dict[str, Planned] = {}
        for entry, request, card in self._requests(lambda dataset, network: refs[dataset, network]):
            for spec in plan(request, card, self.registry):
                runs.setdefault(spec.hash, Planned(spec, entry.label))
        return sorted(runs.values(), key=lambda run: self.seeds.index(run.spec.seed))

    def _requests(self, teacher: Callable[[str, str], TeacherRef]) -> Iterator[tuple[_Entry, Request, DatasetCard]]:
        """One request for each dataset, preset, protocol, method and teacher."""
        for dataset, card in self.cards.items():
            by_teacher: dict[TeacherRef, list[Pair]] = {}
            for pair in self.pairs:
                by_teacher.setdefault(teacher(dataset, pair.teacher), []).append(pair)
            for entry in self.entries:
                presets = self.presets if entry.preset is None else [((*entry.at, "preset"), entry.preset)]
                for at, preset in presets:
                    names = self.registry.load("method", entry.name).preset_names()
                    if preset not in names:
                        self.add_error(at, unknown_name(f"preset of {entry.name}", preset, names))
                        preset = names[0] if names else preset  # noqa: PLW2901 - the options are checked all the same
                    for _, protocol in self.protocols:
                        for ref, pairs in by_teacher.items():
                            yield (
                                entry,
                                Request(
                                    methods=[entry.name],
                                    pairs=pairs,
                                    dataset=dataset,
                                    teacher=ref,
                                    preset=preset,
                                    seeds=self.seeds,
                                    swaps=entry.swaps,
                                    overrides=[*self.shared, *entry.overrides],
                                    protocol=cast("Any", protocol),
                                ),
                                card,
                            )

    def _plan(self, entry: _Entry, request: Request, card: DatasetCard) -> None:
        def report(error: DfkdError) -> None:
            if isinstance(error, OptionError):
                at = (*entry.at, error.part, error.option or "")
                shared = ("schedule", error.option or "")
                is_shared = error.part == "schedule" and at not in self.lines and shared in self.lines
                self.add_error(shared if is_shared else at, error)
            # One network that does not serve is one mistake, whatever the number of methods that meet it.
            elif not self.uses_stand_ins and str(error) not in [sentence for _, sentence in self.found]:
                self.add_error(entry.at, error)

        try:
            plan(Request(**{**vars(request), "seeds": request.seeds[:1]}), card, self.registry, report)
        except DfkdError as error:
            report(error)

    def _known_keys(self, at: toml_lines.Path, table: Mapping[str, Any], known: Sequence[str]) -> None:
        for key in table:
            if key not in known:
                self.add_error((*at, key), unknown_name("key", key, known))

    def _is(self, at: toml_lines.Path, value: Any, *wanted: type) -> bool:
        """Whether a value has one of the types; if not, that is reported."""
        if type(value) in wanted:
            return True
        words = " or ".join(_WORDS[one] for one in wanted)
        name = next(str(part) for part in reversed(at) if isinstance(part, str))
        each = "each of " if isinstance(at[-1], int) else ""
        self.add_error(at, f"{each}{name} must be {words}, not {value!r}")
        return False

    def _texts(self, key: str, default: list[str] | None) -> list[tuple[toml_lines.Path, str]]:
        """An array of texts with their places."""
        if key not in self.content:
            if default is None:
                self.add_error((), f'the grid has no {key}: give them as {key} = ["...", "..."]')
            return [((key,), text) for text in default or ()]
        values = self.content[key]
        if not self._is((key,), values, list):
            return []
        if not values:
            self.add_error((key,), f"{key} is empty: name one at least")
        places = [((key, index), value) for index, value in enumerate(values)]
        return [(at, value) for at, value in places if self._is(at, value, str)]

    def _table(self, at: toml_lines.Path, around: Mapping[str, Any]) -> dict[str, Any]:
        value = around.get(str(at[-1]), {})
        return value if self._is(at, value, dict) else {}

    def _beside(self, dataset: str) -> str:
        """A dataset's name; a relative folder is sought beside the grid file, as teachers' files are."""
        if not dataset.startswith(FOLDER):
            return dataset
        return FOLDER + str(own_path(dataset.removeprefix(FOLDER), self.path.parent))

    def _name(self, dataset: str) -> str:
        """What the card calls a dataset that the file names."""
        folder = Path(self._beside(dataset).removeprefix(FOLDER)).resolve()
        name = f"{FOLDER}{folder}"
        return name if dataset.startswith(FOLDER) and name in self.cards else dataset

    def _protocol(self, at: toml_lines.Path, name: str) -> bool:
        if name not in PROTOCOLS:
            self.add_error(at, unknown_name("protocol", name, PROTOCOLS))
        return name in PROTOCOLS

    def _seeds(self) -> list[int]:
        seeds = self.content.get("seeds", 1)
        if not self._is(("seeds",), seeds, int, list):
            return [0]
        if isinstance(seeds, int):
            if seeds < 1:
                self.add_error(
                    ("seeds",), f"seeds = {seeds} asks for no run: give a count of 1 or more, or an array of seeds"
                )
            if seeds > MOST_SEEDS:
                self.add_error(("seeds",), f"seeds = {seeds} are too many: {MOST_SEEDS:,} at most")
            return list(range(min(seeds, MOST_SEEDS))) or [0]
        if not seeds:
            self.add_error(("seeds",), "seeds is empty: name one at least")
        for index, seed in enumerate(seeds):
            if self._is(("seeds", index), seed, int) and seed < 0:
                self.add_error(("seeds", index), f"a seed must not be negative: {seed} is")
        return [seed for seed in seeds if type(seed) is int] or [0]

    def _pair(self, at: toml_lines.Path, text: str) -> Iterator[Pair]:
        with _CollectErrors(self, at):
            pair = Pair.parse(text)
            for network in dict.fromkeys((pair.teacher, pair.student)):
                check_model(network, self.registry)
                for card in self.cards.values():
                    network_facts(network, card, self.registry)
            yield pair

    def _methods(self) -> Iterator[tuple[toml_lines.Path, Any]]:
        for key in ("methods", "method"):
            values = self.content.get(key, [])
            if self._is((key,), values, list):
                yield from (((key, index), value) for index, value in enumerate(values))
        if not self.content.get("methods") and not self.content.get("method"):
            self.add_error(
                (), 'the grid has no methods: give methods = ["...", "..."], or [[method]] tables with a name'
            )

    def _entry(self, at: toml_lines.Path, value: Any) -> Iterator[_Entry]:
        if not self._is(at, value, str, dict):
            return
        table: dict[str, Any] = {"name": value} if isinstance(value, str) else value
        self._known_keys(at, table, _METHOD)
        name = table.get("name")
        if name is None:
            self.add_error(at, 'this method has no name: write name = "...", one of `dfkd-bench methods`')
            return
        sound = [self._is((*at, key), table[key], str) for key in ("name", "label", "preset") if key in table]
        if not all(sound):  # a list, so that each of them is reported
            return
        options: list[Override] = []
        swaps: dict[StageKind, str] = {}
        usable = True
        for kind in STAGE_KINDS:
            given = table.get(kind, {})
            if not self._is((*at, kind), given, str, dict):
                usable = False
                continue
            chosen = given if isinstance(given, str) else given.get("name")
            if chosen is not None:
                with _CollectErrors(self, (*at, kind, "name")) as caught:
                    if self._is((*at, kind, "name"), chosen, str):
                        self.registry.find(kind, chosen)
                        swaps[kind] = chosen
                usable = usable and kind in swaps and not caught.mistake
            if isinstance(given, dict):
                options += [Override(kind, o, v, name) for o, v in given.items() if o != "name"]
        options += [Override("schedule", o, v, name) for o, v in self._table((*at, "schedule"), table).items()]
        with _CollectErrors(self, (*at, "name")) as caught:
            self.registry.load("method", name)
        if usable and not caught.mistake:
            yield _Entry(name, table.get("label", name), at, table.get("preset"), swaps, options)

    def _teachers(self) -> Iterator[tuple[tuple[str, str], tuple[toml_lines.Path, Given]]]:
        """Files or recipes by dataset and network; a relative file is sought beside the grid file."""
        networks = {pair.teacher for pair in self.pairs}
        for key, files in self._table(("teachers",), self.content).items():
            at: toml_lines.Path = ("teachers", key)
            dataset = self._name(key)
            if self.cards and dataset not in self.cards:
                self.add_error(at, unknown_name("dataset of the grid", dataset, self.cards))
            elif self._is(at, files, dict):
                for network, file in files.items():
                    if networks and network not in networks:
                        self.add_error((*at, network), unknown_name("teacher of the grid's pairs", network, networks))
                    elif isinstance(file, dict):
                        yield (dataset, network), ((*at, network), file)
                    elif self._is((*at, network), file, str, dict):
                        with _CollectErrors(self, (*at, network)):
                            yield (dataset, network), ((*at, network), own_path(file, beside=self.path.parent))


class _CollectErrors:
    """Turns a mistake inside into one of the grid's, and continues."""

    def __init__(self, grid: _Grid, at: toml_lines.Path) -> None:
        self.grid, self.at, self.mistake = grid, at, False

    def __enter__(self) -> _CollectErrors:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> bool:
        if isinstance(error, DfkdError):
            self.mistake = True
            self.grid.add_error(self.at, error)
        return self.mistake
