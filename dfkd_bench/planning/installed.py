"""What is installed, as a leaderboard asks for it. Imports torch only if a run's options are to be compared."""

from __future__ import annotations

from dfkd_bench.card import DatasetCard
from dfkd_bench.errors import DfkdError
from dfkd_bench.hooks.registry import STAGE_KINDS, Registry
from dfkd_bench.method import Method, StageChoice
from dfkd_bench.spec import RunSpec

__all__ = ["Installed"]


class Installed:
    """A registry's methods, datasets and presets; a `leaderboard.build.Known`."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def method(self, name: str) -> Method | None:
        """The recipe of this name, None if nobody provides it."""
        found = self._registry.provided("method").get(name)
        return None if found is None else found.target

    def card(self, dataset: str) -> DatasetCard | None:
        """The dataset's card, None if nobody provides it."""
        found = self._registry.provided("dataset").get(dataset)
        return None if found is None else found.card

    def changed(self, spec: RunSpec) -> bool | None:
        """Whether the stages, options or schedule are other than the preset's of today; None if there is none."""
        method = self.method(spec.method)
        if method is None:
            return None
        from dfkd_bench.planning.requests import Request, resolve

        request = Request(
            methods=[spec.method],
            pairs=[spec.pair],
            dataset=spec.dataset,
            teacher=spec.teacher,
            preset=spec.preset,
            protocol=spec.protocol,
        )
        try:
            preset = resolve(method, request, spec.pair, spec.seed, self._registry)
        except DfkdError:
            return None  # the preset is gone, or a stage cannot be loaded
        stages = [(getattr(spec, kind), getattr(preset, kind)) for kind in STAGE_KINDS]
        return spec.schedule != preset.schedule or any(_other(ran, wanted) for ran, wanted in stages)


def _other(ran: StageChoice, wanted: StageChoice) -> bool:
    # An option that is younger than the run had no other value than its default.
    return ran.name != wanted.name or any(
        name not in wanted.options or wanted.options[name] != value for name, value in ran.options.items()
    )
