"""Several filters as one: `cosine+agreement` keeps what each of them keeps."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import torch
from pydantic import JsonValue, create_model, model_validator
from torch import Tensor

from dfkd_bench.card import DatasetCard
from dfkd_bench.method import Prior
from dfkd_bench.stages.bank import SyntheticBatch
from dfkd_bench.stages.base import Filter, StageContext
from dfkd_bench.stages.options import StageOptions
from dfkd_bench.stages.passes import Passes, Projection, Workload
from dfkd_bench.stages.requirements import NetworkFacts

__all__ = ["joined"]

_PRIORS: tuple[Prior, ...] = get_args(Prior)  # from none to the real data


@functools.cache
def joined(names: tuple[str, ...], classes: tuple[type[Filter[Any]], ...]) -> type[Filter[Any]]:
    """The filter that keeps what all of them keep.

    Its options are theirs, each with its filter's name before it: `cosine_threshold`.

    Args:
        names: of the filters, each once.
        classes: in the same order.
    """
    parts = dict(zip(names, classes, strict=True))

    def split(options: StageOptions) -> Iterator[tuple[str, type[Filter[Any]], Any]]:
        for name, part in parts.items():
            mine = {field: getattr(options, _option(name, field)) for field in part.Options.model_fields}
            yield name, part, part.Options.model_validate(mine)

    def consistent(self: StageOptions) -> StageOptions:
        for _ in split(self):
            pass
        return self

    fields: dict[str, Any] = {
        _option(name, field): (info.annotation, info)
        for name, part in parts.items()
        for field, info in part.Options.model_fields.items()
    }
    options_class = create_model(
        "JoinedOptions",
        __base__=StageOptions,
        __validators__={"consistent": model_validator(mode="after")(consistent)},  # type: ignore[dict-item]
        **fields,
    )

    class Joined(Filter[StageOptions]):
        """Keeps what each of its filters keeps."""

        Options = options_class
        requires = frozenset(need for part in classes for need in part.requires)

        def __init__(self, options: StageOptions, context: StageContext) -> None:
            super().__init__(options, context)
            self.filters = {name: part(own, context) for name, part, own in split(options)}

        @classmethod
        def prior_with(cls, options: StageOptions) -> Prior:
            return max((part.prior_with(own) for _, part, own in split(options)), key=_PRIORS.index)

        @classmethod
        def requires_with(cls, options: StageOptions) -> frozenset[str]:
            return frozenset(need for _, part, own in split(options) for need in part.requires_with(own))

        @classmethod
        def unmet(
            cls, options: StageOptions, teacher: NetworkFacts, student: NetworkFacts, card: DatasetCard
        ) -> str | None:
            reasons = (part.unmet(own, teacher, student, card) for _, part, own in split(options))
            return next((sentence for sentence in reasons if sentence is not None), None)

        @classmethod
        def warn_with(cls, options: StageOptions, teacher: NetworkFacts, card: DatasetCard) -> str | None:
            reasons = [part.warn_with(own, teacher, card) for _, part, own in split(options)]
            return "; ".join(sentence for sentence in reasons if sentence is not None) or None

        @classmethod
        def projection(cls, options: StageOptions, load: Workload) -> Projection | None:
            passes = list[Passes]()
            for _, part, own in split(options):
                found = part.projection(own, load)
                if found is None:
                    return None
                passes += found.passes
            return Projection(passes=tuple(passes))

        def keep(self, augmented: SyntheticBatch, source: SyntheticBatch) -> Tensor:
            return functools.reduce(torch.logical_and, (one.keep(augmented, source) for one in self.filters.values()))

        def select(self, batch: SyntheticBatch) -> Tensor:
            return functools.reduce(torch.logical_and, (one.select(batch) for one in self.filters.values()))

        @classmethod
        def judges_augmented(cls) -> bool:
            return any(part.judges_augmented() for part in classes)

        @classmethod
        def judges_batches(cls) -> bool:
            return any(part.judges_batches() for part in classes)

        def report(self) -> dict[str, JsonValue]:
            return {name: one.report() for name, one in self.filters.items()}

        def state_dict(self) -> dict[str, Any]:
            return {name: one.state_dict() for name, one in self.filters.items()}

        def load_state_dict(self, state: Mapping[str, Any]) -> None:
            for name, one in self.filters.items():
                one.load_state_dict(state[name])

    return Joined


def _option(name: str, field: str) -> str:
    return f"{name.replace('-', '_')}_{field}"
