"""Records of an earlier schema, written anew in the present one. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dfkd_bench.errors import DfkdError
from dfkd_bench.foreign import parse_json
from dfkd_bench.results.locks import locked
from dfkd_bench.results.records import Results, parse_record, write_record
from dfkd_bench.results.scan import record_files

__all__ = ["Upgrade", "upgrade"]


@dataclass(frozen=True)
class Upgrade:
    """How many records were written anew, and how many were in the present schema already."""

    written: int
    current: int


def upgrade(results: Results, report: Callable[[DfkdError], None]) -> Upgrade:
    """Write every record of schema 1 below a results folder anew, its curve into a file of its own.

    A kill leaves each record whole, in one schema or the other. Run it again, and the rest is done.

    Args:
        results: the folder.
        report: called with what is wrong with each record that is left as it is.

    Raises:
        DfkdError: the folder cannot be written.
    """
    written, current = 0, 0
    for path, found in record_files(results.path):
        try:
            if isinstance(found, DfkdError):
                raise found
            record = parse_record(path, found)
        except DfkdError as error:
            report(error)
            continue
        if parse_json(found, str(path)).get("schema_version", record.schema_version) == record.schema_version:
            current += 1
            continue
        with locked(results.path, record.run):
            write_record(record, path.parent)
        written += 1
    return Upgrade(written, current)
