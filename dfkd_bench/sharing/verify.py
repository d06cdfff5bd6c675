"""A results folder against itself: every record, curve, picture and table. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dfkd_bench.errors import DfkdError
from dfkd_bench.results import pending
from dfkd_bench.results.records import Results
from dfkd_bench.results.scan import RECORD_FILE
from dfkd_bench.sharing.between import Digest, check_between
from dfkd_bench.sharing.findings import Finding
from dfkd_bench.sharing.folders import walk
from dfkd_bench.sharing.one_run import check_run
from dfkd_bench.sharing.table_file import check_table

if TYPE_CHECKING:
    from dfkd_bench.leaderboard.build import Known

__all__ = ["Verdict", "verify"]


@dataclass
class Verdict:
    """What came out.

    Attributes:
        records: how many can be read.
        tables: how many `leaderboard.csv` were compared with them.
        unchecked_pictures: how many pictures have no hash in their record.
        findings: what does not fit.
    """

    records: int = 0
    tables: int = 0
    unchecked_pictures: int = 0
    findings: list[Finding] = field(default_factory=list)


def verify(folder: Path, expected: Mapping[str, str] | None = None, known: Known | None = None) -> Verdict:
    """Check a results folder, sub-folders included. Nothing is written.

    Args:
        folder: the results folder.
        expected: runs that must be there: titles by hash; those of grids that are not done are known without it.
        known: what is installed: tables are made anew with it, as `leaderboard.build.read_table` wants it.

    Raises:
        DfkdError: there is no such folder, or a part of it cannot be read.
    """
    if not folder.is_dir():
        raise DfkdError(f"there is no results folder {folder}: name another one")
    verdict, digests, tables = Verdict(), list[Digest](), list[Path]()
    for entry in walk(folder, verdict.findings):
        if entry.is_file():
            tables.append(entry)
            continue
        run = check_run(entry)
        verdict.findings += run.findings
        if run.record is not None:
            verdict.records += 1
            verdict.unchecked_pictures += run.unchecked_picture
            digests.append(Digest.of(run.path, run.record))
    verdict.findings += check_between(digests)
    for table in tables:
        verdict.tables += 1
        verdict.findings += check_table(table, known)
    verdict.findings += _missing(folder, {digest.run for digest in digests}, expected or {})
    return verdict


def _missing(folder: Path, there: set[str], expected: Mapping[str, str]) -> Iterator[Finding]:
    odd: list[DfkdError] = []
    titles = pending.titles(Results(folder), odd.append)
    yield from (Finding(folder, ".plans", str(error)) for error in odd)
    plans = {run: title for run, title in titles.items() if run not in expected}
    for source, runs in (("a grid file", expected), ("a grid that is not done", plans)):
        for run, title in runs.items():
            if run not in there:
                yield Finding(folder / run, RECORD_FILE, f"is missing: {source} asks for {title}")
