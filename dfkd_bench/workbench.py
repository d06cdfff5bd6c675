"""What runs need beside their specs: who provides what, where to compute, the teachers, the results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dfkd_bench.environment import DeviceName, Execution, PrecisionName, execution
from dfkd_bench.files import cache_folder
from dfkd_bench.hooks.registry import Registry, default_registry
from dfkd_bench.results.records import Results
from dfkd_bench.teachers.store import TeacherStore

if TYPE_CHECKING:
    from dfkd_bench.card import DatasetCard

__all__ = ["Workbench"]


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
        deterministic: bool = False,
        compile: bool = False,
        graphs: bool = False,
    ) -> Workbench:
        """With the defaults of the command line; `here` is false where an engine does the runs on other machines.

        Raises:
            DfkdError: the device is not there, or a compiler that `compile` needs.
        """
        registry = registry or default_registry()
        root = None if data_root is None else Path(data_root)
        settled = execution(
            device, precision, root, here=here, deterministic=deterministic, graphs=graphs, compile=compile
        )
        store = TeacherStore(cache_folder("teachers") if teachers is None else Path(teachers), registry, settled)
        return cls(registry, settled, store, Results(Path(results)))

    def card(self, dataset: str) -> DatasetCard:
        """A dataset's card."""
        from dfkd_bench.datasets.access import open_dataset

        return open_dataset(dataset, self.registry, self.execution.data_root).card
