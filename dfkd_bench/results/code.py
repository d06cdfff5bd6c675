"""The source that made a result: hashed without importing it, and compared with what is there now. Imports no torch."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
from collections.abc import Iterable, Mapping
from pathlib import Path

__all__ = ["CORE", "changed", "package_hash"]

CORE = "dfkd_bench"

# The parts of the core that decide a result. The others plan, schedule, record and show it.
_DECISIVE = {
    "blocks",
    "card.py",
    "datasets",
    "environment.py",
    "evaluation.py",
    "method.py",
    "models",
    "resume",
    "runs",
    "spec.py",
    "stages",
    "teachers",
}


@functools.cache
def package_hash(package: str) -> str | None:
    """The first 16 hex digits of the SHA-256 of a package's Python files; None for one that has none, or is not there.

    Computed once in a process.
    """
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # a module without a spec, such as `__main__`
        return None
    if found is None:
        return None
    digest, seen = hashlib.sha256(), False
    for root, path in _files(found.origin, found.submodule_search_locations or ()):
        name = path.relative_to(root)
        if package == CORE and name.parts[0] not in _DECISIVE:
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


def changed(code: Mapping[str, str] | None, *, needed: bool = False) -> tuple[str, ...]:
    """The plugins' packages whose source is not what it was when a result was made.

    The core does not count: it changes with every version, which the record names.

    Args:
        code: what the record says; None in those of earlier versions, of which nothing is known.
        needed: the result is asked for by its spec, so somebody provides its stages: a package that is not there any
            more counts as changed. Otherwise nothing can be said of it.
    """
    now = {name: package_hash(name) for name in code or () if name != CORE}
    return tuple(name for name, found in now.items() if found != (code or {})[name] and (found is not None or needed))
