"""A run's four stages: their classes and options by the spec, and the context that each is given."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from dfkd_bench.card import DatasetCard
from dfkd_bench.datasets.access import open_dataset
from dfkd_bench.datasets.split import Split
from dfkd_bench.environment import Execution
from dfkd_bench.errors import DfkdError
from dfkd_bench.files import cache_folder
from dfkd_bench.hooks.events import EventKind
from dfkd_bench.hooks.registry import STAGE_KINDS, Registry
from dfkd_bench.method import Prior
from dfkd_bench.models.build import brings_weights
from dfkd_bench.spec import RunSpec
from dfkd_bench.stages.base import Augmenter, Distiller, Filter, Stage, StageContext, Synthesizer
from dfkd_bench.stages.graphs import Graphs
from dfkd_bench.stages.ledger import CostLedger
from dfkd_bench.stages.network import Network

__all__ = ["Emit", "StageSet", "priors_of"]

Emit = Callable[[EventKind, Mapping[str, Any]], None]


def priors_of(spec: RunSpec, registry: Registry) -> dict[str, Prior]:
    """The knowledge beyond the teacher that each stage of a spec brings in, and the student's first weights if any.

    Raises:
        DfkdError: a stage is unknown or cannot be used.
    """
    found: dict[str, Prior] = {}
    for kind in STAGE_KINDS:
        choice = getattr(spec, kind)
        stage = registry.load(kind, choice.name)
        found[kind] = stage.prior_with(stage.Options.model_validate(choice.options))
    return {**found, "student": "image"} if brings_weights(spec.pair.student) else found


def _ticker(emit: Emit, kind: str) -> Callable[[int, int], None]:
    # Closes over the way out alone: through a closure over the run a stage could reach the evaluator's images.
    return lambda done, total: emit("progress", {"phase": kind, "done": done, "total": total})


class StageSet:
    """The four stages of a spec; `make` makes them, before that only classes and options are known.

    Args:
        spec: names and options.
        registry: where the classes come from.
        card: the run's dataset.

    Raises:
        DfkdError: a stage is unknown, or its synthesizer wants images that its prior does not own up to.
    """

    synthesizer: Synthesizer[Any]
    augmenter: Augmenter[Any]
    filter: Filter[Any]
    distiller: Distiller[Any]

    def __init__(self, spec: RunSpec, registry: Registry, card: DatasetCard) -> None:
        self._spec, self._card = spec, card
        self._classes = {kind: registry.load(kind, getattr(spec, kind).name) for kind in STAGE_KINDS}
        self._options = {
            kind: stage.Options.model_validate(getattr(spec, kind).options) for kind, stage in self._classes.items()
        }
        self.wanted: str | None = self._classes["synthesizer"].images_wanted(self._options["synthesizer"], card)
        if self.wanted is not None:
            # By the card's name: a folder can be spelled in many ways, and the run's own is the run's own in each.
            self.wanted = open_dataset(self.wanted, registry).card.name
            self._check_door(self.wanted, registry)

    def _check_door(self, wanted: str, registry: Registry) -> None:
        honest = "data" if wanted == self._spec.dataset else "image"
        prior = priors_of(self._spec, registry)["synthesizer"]
        if prior not in (honest, "data"):
            name = self._spec.synthesizer.name
            raise DfkdError(
                f"the synthesizer '{name}' wants {wanted}'s images: its prior must say '{honest}', not '{prior}'"
            )

    def open_door(self, registry: Registry, execution: Execution) -> Split | None:
        """The training images that a null baseline or reference declares that it wants; None for all others."""
        if self.wanted is None:
            return None
        return open_dataset(self.wanted, registry, execution.data_root).load("train")

    def make(
        self,
        teacher: Network,
        student: Network,
        execution: Execution,
        streams: Mapping[str, torch.Generator],
        ledger: CostLedger,
        emit: Emit,
        images: Split | None,
        graphs: Graphs | None = None,
    ) -> None:
        """Make the four, each with its own context."""
        for kind in STAGE_KINDS:
            given = images if kind == "synthesizer" else None
            context = StageContext(
                teacher=teacher,
                student=student,
                card=self._card,
                device=execution.device,
                precision=execution.precision,
                generator=streams[kind],
                ledger=ledger,
                cache=cache_folder("stages", getattr(self._spec, kind).name),
                tick=_ticker(emit, kind),
                bank_capacity=self._spec.schedule.bank_capacity,
                graphs=graphs,
                images=None if given is None else given.images,
                labels=given.labels if given is not None and self.wanted == self._spec.dataset else None,
            )
            setattr(self, kind, self._classes[kind](self._options[kind], context))

    def all(self) -> dict[str, Stage[Any]]:
        """The four by kind."""
        return {kind: getattr(self, kind) for kind in STAGE_KINDS}

    def state_dict(self) -> dict[str, Any]:
        """Everything that the four need to resume."""
        return {kind: stage.state_dict() for kind, stage in self.all().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""
        for kind, stage in self.all().items():
            stage.load_state_dict(state[kind])
