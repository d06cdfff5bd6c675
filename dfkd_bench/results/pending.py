"""What grids mean to do, kept in the results folder until it is done: so that `status` knows what waits.

Imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from pydantic import Field, RootModel

from dfkd_bench.errors import DfkdError, Report
from dfkd_bench.files import replacing, writable_folder
from dfkd_bench.foreign import read_model
from dfkd_bench.results.records import Results
from dfkd_bench.results.scan import RUN_FOLDER
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
    writable_folder(path.parent, "grids'")
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({spec.hash: spec.title for spec in specs}, indent=0), encoding="utf-8")


def remove(results: Results, specs: Sequence[RunSpec]) -> None:
    """It is done: every run has a record."""
    _path(results, specs).unlink(missing_ok=True)


class _Titles(RootModel[dict[Annotated[str, Field(pattern=f"^{RUN_FOLDER.pattern}$")], str]]):
    """What a file holds."""


def titles(results: Results, report: Report) -> dict[str, str]:
    """The titles of all runs of grids that are not done, by hash.

    Args:
        results: the folder.
        report: called with what is wrong with each file that is left out.
    """
    found: dict[str, str] = {}
    for path in sorted((results.path / ".plans").glob("*.json")):
        try:
            found.update(read_model(_Titles, path, "list of a grid's runs", "remove it").root)
        except FileNotFoundError:
            continue  # it was dropped while we looked
        except DfkdError as error:
            report(error)
    return found
