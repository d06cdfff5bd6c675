"""The Python API: the command line only parses, calls this, and prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dfkd_bench.budgets import Protocol
from dfkd_bench.engines import EngineName, EngineOptions, require_all, run_grid
from dfkd_bench.environment import DeviceName, Execution, PrecisionName, execution
from dfkd_bench.errors import DfkdError
from dfkd_bench.files import cache_folder
from dfkd_bench.grid import Override, Request, plan
from dfkd_bench.gridfile import Planned, plan_file
from dfkd_bench.plugins import Registry, StageKind, default_registry
from dfkd_bench.records import Record, Results
from dfkd_bench.spec import Pair, RunSpec, TeacherRef
from dfkd_bench.teachers import TeacherStore, default_recipe

if TYPE_CHECKING:
    from dfkd_bench.datasets.card import DatasetCard

__all__ = ["Workbench", "run"]


@dataclass(frozen=True)
class Workbench:
    """Everything that runs need beside their specs."""

    registry: Registry
    execution: Execution
    store: TeacherStore
    results: Results

    @classmethod
    def make(
        cls,
        *,
        results: Path | str = "results",
        teachers: Path | str | None = None,
        data_root: Path | str | None = None,
        device: DeviceName = "auto",
        precision: PrecisionName = "auto",
        registry: Registry | None = None,
        here: bool = True,
    ) -> Workbench:
        """With the defaults of the command line; `here` is false where an engine does the runs on other machines.

        Raises:
            DfkdError: the device is not there.
        """
        registry = registry or default_registry()
        settled = execution(device, precision, None if data_root is None else Path(data_root), here=here)
        store = TeacherStore(cache_folder("teachers") if teachers is None else Path(teachers), registry, settled)
        return cls(registry, settled, store, Results(Path(results)))

    def card(self, dataset: str) -> DatasetCard:
        """A dataset's card."""
        from dfkd_bench.datasets.access import open_dataset

        return open_dataset(dataset, self.registry, self.execution.data_root).card

    def plan(
        self,
        methods: Sequence[str],
        pairs: Sequence[str],
        *,
        dataset: str = "digits",
        preset: str = "quick",
        protocol: Protocol = "native",
        seeds: Sequence[int] = (0,),
        swaps: Mapping[StageKind, str] | None = None,
        overrides: Sequence[str | Override] = (),
        teacher: Path | str | None = None,
        keep_teacher: bool = True,
    ) -> list[RunSpec]:
        """The product of methods, pairs and seeds, each checked.

        A teacher's file is measured and kept in the store, unless `keep_teacher` is false: then it is only checked.

        Raises:
            DfkdError: what is wrong, in one sentence.
        """
        card = self.card(dataset)
        parsed = [Pair.parse(pair) for pair in pairs]
        request = Request(
            methods=methods,
            pairs=parsed,
            dataset=card.name,
            teacher=TeacherRef(recipe=default_recipe(card.name)),
            preset=preset,
            protocol=protocol,
            seeds=seeds,
            swaps=swaps or {},
            overrides=[Override.parse(o) if isinstance(o, str) else o for o in overrides],
        )
        if teacher is None:
            return plan(request, card, self.registry)
        plan(request, card, self.registry)  # names before files: a typing mistake is told at once
        networks = {pair.teacher for pair in parsed}
        if len(networks) > 1:
            raise DfkdError(f"--teacher gives one network's weights, but the pairs name {', '.join(sorted(networks))}")
        network = networks.pop()
        if keep_teacher:
            weights = self.store.import_file(Path(teacher), network, card.name).card.sha256
        else:
            weights = self.store.check_file(Path(teacher), network, card.name)
        given = TeacherRef(sha256=weights)
        return plan(Request(**{**vars(request), "teacher": given}), card, self.registry)

    def plan_grid(self, file: Path | str, *, keep_teacher: bool = True) -> list[Planned]:
        """Every run of a grid file, which is checked as a whole first. Teachers' files are treated as in `plan`.

        Raises:
            DfkdError: what is wrong, a sentence for each mistake.
        """

        def teacher(dataset: str, network: str, weights: Path | None) -> TeacherRef:
            if weights is None:
                return TeacherRef(recipe=default_recipe(dataset))
            if keep_teacher:
                return TeacherRef(sha256=self.store.import_file(weights, network, dataset).card.sha256)
            return TeacherRef(sha256=self.store.check_file(weights, network, dataset))

        return plan_file(Path(file), self.registry, self.card, teacher)

    def run(self, spec: RunSpec, **options: Any) -> Record:
        """The record of a spec, run now unless it is there; see `runner.run_spec`."""
        from dfkd_bench.runner import run_spec  # plans do without it, and it takes its time

        return run_spec(spec, self.results, self.store, **options)

    def run_all(
        self,
        specs: Sequence[RunSpec],
        *,
        engine: EngineName = "local",
        options: EngineOptions | None = None,
        **how: Any,
    ) -> list[Record]:
        """The records of many specs, in their order; see `engines.run_grid`.

        The engines `local` and `ray` do each run in a process of its own, which knows the installed plugins only.

        Raises:
            DfkdError: runs have no record, because something that the user can mend stands in the way.
        """
        return require_all(specs, run_grid(specs, self, engine=engine, options=options, **how))


def run(
    method: str = "dda",
    pair: str = "wrn40_2:wrn16_1",
    *,
    dataset: str = "digits",
    preset: str = "quick",
    protocol: Protocol = "native",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    swaps: Mapping[StageKind, str] | None = None,
    teacher: Path | str | None = None,
    **places: Any,
) -> Record:
    """Run one method on one pair and return its record; a record that is there already is returned as it is.

    Args:
        method: a method's name (`dfkd-bench methods` lists them).
        pair: `TEACHER:STUDENT`.
        dataset: a dataset's name or `folder:PATH`.
        preset: `quick` or `paper`.
        protocol: `native` for the method's own schedule, `matched` for the budget that all methods share.
        seed: root seed of all random streams.
        options: such as `{"synthesizer.steps": 500, "schedule.epochs": 10}`.
        swaps: other stages, such as `{"augmenter": "classic"}`.
        teacher: a file with the teacher's weights; by default one is trained, once.
        places: `results`, `teachers`, `data_root`, `device`, `precision` as on the command line.

    Raises:
        DfkdError: a mistake in what was asked, in one sentence.
    """
    bench = Workbench.make(**places)
    overrides = [replace(Override.parse(f"{name}=?"), value=value) for name, value in (options or {}).items()]
    (spec,) = bench.plan(
        [method],
        [pair],
        dataset=dataset,
        preset=preset,
        protocol=protocol,
        seeds=[seed],
        swaps=swaps,
        overrides=overrides,
        teacher=teacher,
    )
    return bench.run(spec)
