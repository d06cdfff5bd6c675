"""Where runs and tables are in a results folder, and their records read with no trust. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from dfkd_bench.errors import DfkdError
from dfkd_bench.files import listed
from dfkd_bench.results.records import Record, read_record
from dfkd_bench.results.scan import RECORD_FILE, RUN_FOLDER
from dfkd_bench.sharing.findings import Finding

__all__ = ["TABLE_FILE", "careful_record", "run_folders", "usable_records", "walk"]

TABLE_FILE = "leaderboard.csv"

# Notes, grids, tables and figures may be beside the runs; what could be taken for a result may not.
_DOCUMENTS = {".md", ".txt", ".toml", ".csv", ".html", ".tex", ".bib", ".pdf", ".svg", ".png"}


def walk(folder: Path, findings: list[Finding]) -> Iterator[Path]:
    """The runs' folders and the tables below a folder, in the order of their paths.

    Args:
        folder: where to look; folders whose name begins with a dot are left out.
        findings: gets what is neither and could be taken for it.

    Raises:
        DfkdError: a folder cannot be read.
    """
    entries = listed(folder)
    if RUN_FOLDER.fullmatch(folder.name) or any(entry.name == RECORD_FILE for entry in entries):
        yield folder
        return
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_symlink():
            findings.append(Finding(entry, "link", "is followed by no command: put a copy there, or remove it"))
        elif entry.is_dir():
            yield from walk(entry, findings)
        elif entry.name == TABLE_FILE:
            yield entry
        elif entry.suffix not in _DOCUMENTS or not entry.is_file():
            findings.append(Finding(entry, "file", "is none that belongs into a results folder"))


def run_folders(folder: Path) -> Iterator[Path]:
    """The runs' folders below a folder, in the order of their paths.

    Raises:
        DfkdError: a folder cannot be read.
    """
    return (entry for entry in walk(folder, []) if entry.is_dir())


def careful_record(path: Path) -> Record:
    """The record in a file that anybody may have put there.

    Raises:
        DfkdError: it is no regular file, too large, or no record.
    """
    # A link is read by no command: what it leads to may change without the folder.
    record = None if path.is_symlink() or not path.is_file() else read_record(path)
    if record is None:
        raise DfkdError(f"{path} is no regular file")
    return record


def usable_records(folder: Path) -> Iterator[Record]:
    """Every record below a folder that can be read; the others are left out.

    Raises:
        DfkdError: a folder cannot be read.
    """
    for run in run_folders(folder):
        try:
            record = careful_record(run / RECORD_FILE)
        except DfkdError:
            continue  # whoever checks the folder names it
        yield record
