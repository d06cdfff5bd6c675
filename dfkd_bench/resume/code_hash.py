"""A hash of the source that a run runs: the core and the packages that provide its stages and networks."""

from __future__ import annotations

import functools
import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from dfkd_bench.hooks.registry import STAGE_KINDS, Registry
from dfkd_bench.spec import RunSpec

__all__ = ["source_hashes"]

# The parts of the core that decide a result. The others plan, schedule, record and show it.
_DECISIVE = {
    "blocks",
    "card.py",
    "datasets",
    "environment.py",
    "evaluation.py",
    "method.py",
    "models",
    "runs",
    "spec.py",
    "stages",
    "teachers",
}


def source_hashes(spec: RunSpec, registry: Registry) -> dict[str, str]:
    """By package: the first 16 hex digits of the SHA-256 of its Python files. A package without files has none."""
    stages = [registry.load(kind, getattr(spec, kind).name) for kind in STAGE_KINDS]
    return _hashes([*stages, *_networks(spec.pair.model_dump().values(), registry)])


def network_hashes(models: Iterable[str], registry: Registry) -> dict[str, str]:
    """The same for what builds and trains networks."""
    return _hashes(_networks(models, registry))


def _networks(models: Iterable[str], registry: Registry) -> list[Any]:
    provided = registry.provided("model")
    return [registry.load("model", name) for name in models if name in provided]


def _hashes(things: Iterable[Any]) -> dict[str, str]:
    packages = {"dfkd_bench", *(thing.__module__.partition(".")[0] for thing in things if hasattr(thing, "__module__"))}
    hashes = {name: _hash_of(name) for name in sorted(packages)}
    return {f"the code of {name}": found for name, found in hashes.items() if found is not None}


@functools.cache
def _hash_of(package: str) -> str | None:
    module = sys.modules.get(package)
    if module is None or package == "__main__":
        return None
    digest, seen = hashlib.sha256(), False
    for root, path in _files(getattr(module, "__file__", None), getattr(module, "__path__", ())):
        name = path.relative_to(root)
        if package == "dfkd_bench" and name.parts[0] not in _DECISIVE:
            continue
        digest.update(f"{name.as_posix()}\0".encode() + path.read_bytes())
        seen = True
    return digest.hexdigest()[:16] if seen else None


def _files(file: str | None, folders: Iterable[str]) -> list[tuple[Path, Path]]:
    roots = [Path(folder) for folder in folders]
    if roots:
        return [(root, path) for root in roots for path in sorted(root.rglob("*.py"))]
    if file is None or not file.endswith(".py"):
        return []
    return [(Path(file).parent, Path(file))]
