"""Whether a run's networks and stages offer what its stages require. Imports no torch by itself."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dfkd_bench.errors import DfkdError
from dfkd_bench.hooks.registry import STAGE_KINDS
from dfkd_bench.models.build import build_model
from dfkd_bench.stages.requirements import NEEDS

if TYPE_CHECKING:
    from dfkd_bench.card import DatasetCard
    from dfkd_bench.hooks.registry import Registry
    from dfkd_bench.spec import RunSpec

__all__ = ["unmet"]


def unmet(spec: RunSpec, card: DatasetCard, registry: Registry) -> Iterator[DfkdError]:
    """What a spec's stages require and nobody there offers, as sentences."""
    for kind in STAGE_KINDS:
        choice = getattr(spec, kind)
        stage = registry.load(kind, choice.name)
        for name in sorted(stage.requires_with(stage.Options.model_validate(choice.options))):
            need = NEEDS[name]
            for part in need.of:
                lacking, offered = _offers(spec, part, card, registry)
                if need.offer not in offered:
                    other = "synthesizer" if part == "synthesizer" else "network"
                    yield DfkdError(
                        f"{spec.method} cannot run on {spec.pair}: its {kind} '{choice.name}' needs {need.what}, and "
                        f"{lacking} has none; choose another {other}, or a method that does without"
                    )
                    break


def _offers(spec: RunSpec, part: str, card: DatasetCard, registry: Registry) -> tuple[str, frozenset[str]]:
    """Who it is, and what it offers."""
    if part == "synthesizer":
        told = registry.load("synthesizer", spec.synthesizer.name).gives_targets
        return f"the synthesizer '{spec.synthesizer.name}'", frozenset({"targets"} if told else ())
    network: str = getattr(spec.pair, part)
    return network, _network_offers(network, card, registry)


# Building a network takes up to a fifth of a second: a grid asks for each once.
@functools.lru_cache(maxsize=1024)
def _network_offers(name: str, card: DatasetCard, registry: Registry) -> frozenset[str]:
    from torch import nn

    body = build_model(name, card, registry)
    offered = set()
    if any(isinstance(module, nn.BatchNorm2d) for module in body.modules()):
        offered.add("batchnorm")
    if isinstance(getattr(body, "stages", None), tuple):
        offered.add("stages")
    return frozenset(offered)
