"""The source that a run runs: the core and the packages that provide its stages and networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from dfkd_bench.hooks.registry import STAGE_KINDS, Registry, joined_names
from dfkd_bench.results.code import CORE, package_hash
from dfkd_bench.spec import RunSpec

__all__ = ["network_hashes", "source_hashes"]


def source_hashes(spec: RunSpec, registry: Registry) -> dict[str, str]:
    """By package, the hash of its source. A package without files, as in a notebook, has none.

    Raises:
        DfkdError: a stage is unknown or cannot be used.
    """
    chosen = [(kind, getattr(spec, kind).name) for kind in STAGE_KINDS]
    stages = [registry.load(kind, part) for kind, name in chosen for part in joined_names(kind, name)]
    return _hashes([*stages, *_networks(spec.pair.model_dump().values(), registry)])


def network_hashes(models: Iterable[str], registry: Registry) -> dict[str, str]:
    """The same for what builds and trains networks."""
    return _hashes(_networks(models, registry))


def _networks(models: Iterable[str], registry: Registry) -> list[Any]:
    provided = registry.provided("model")
    return [registry.load("model", name) for name in models if name in provided]


def _hashes(things: Iterable[Any]) -> dict[str, str]:
    packages = {CORE, *(thing.__module__.partition(".")[0] for thing in things if hasattr(thing, "__module__"))}
    hashes = {name: package_hash(name) for name in sorted(packages)}
    return {name: found for name, found in hashes.items() if found is not None}
