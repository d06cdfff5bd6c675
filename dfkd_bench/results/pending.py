"""What grids mean to do, kept in the results folder until it is done: so that `status` knows what waits.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from dfkd_bench.files import replacing
from dfkd_bench.results.records import Results
from dfkd_bench.spec import RunSpec

__all__ = ["add", "remove", "titles"]


def _path(results: Results, specs: Sequence[RunSpec]) -> Path:
    # The same grid has the same file, however often and by however many processes it is started.
    name = hashlib.sha256(" ".join(sorted(spec.hash for spec in specs)).encode()).hexdigest()[:16]
    return results.path / ".plans" / f"{name}.json"


def add(results: Results, specs: Sequence[RunSpec]) -> None:
    """A grid begins.

    Raises:
        DfkdError: the folder cannot be written.
    """
    path = _path(results, specs)
    path.parent.mkdir(exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({spec.hash: spec.title for spec in specs}, indent=0), encoding="utf-8")


def remove(results: Results, specs: Sequence[RunSpec]) -> None:
    """It is done: every run has a record."""
    _path(results, specs).unlink(missing_ok=True)


def titles(results: Results) -> dict[str, str]:
    """The titles of all runs of grids that are not done, by hash."""
    found: dict[str, str] = {}
    for path in sorted((results.path / ".plans").glob("*.json")):
        try:
            found.update(json.loads(path.read_bytes()))
        except (OSError, ValueError):
            continue  # it was dropped while we looked
    return found
