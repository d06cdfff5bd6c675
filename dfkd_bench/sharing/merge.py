"""Two or more results folders into a new one: whole or not at all, nothing overwritten. Imports no torch."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from dfkd_bench.errors import DfkdError
from dfkd_bench.results.curves import CURVE_FILE
from dfkd_bench.results.records import Record
from dfkd_bench.results.scan import RECORD_FILE
from dfkd_bench.sharing.between import Digest, check_between, check_teacher_names
from dfkd_bench.sharing.findings import Finding
from dfkd_bench.sharing.folders import TABLE_FILE, run_folders
from dfkd_bench.sharing.one_run import check_run
from dfkd_bench.sharing.table_file import table_text

if TYPE_CHECKING:
    from dfkd_bench.leaderboard.build import Known

__all__ = ["Contradiction", "Merged", "merge"]

_TRACEBACK = "traceback.txt"


class Contradiction(DfkdError):  # noqa: N818 - it is the user's data that is at fault, not a call
    """The folders cannot be merged.

    Attributes:
        findings: why, each thing once.
    """

    def __init__(self, findings: Sequence[Finding]) -> None:
        self.findings = list(findings)
        super().__init__("\n".join(map(str, self.findings)))


@dataclass
class Merged:
    """What was merged.

    Attributes:
        runs: how many runs the new folder holds.
        shared: how many of them more than one source holds, with the same bytes.
        unfinished: folders without a record, which were left out.
        code: the code versions of each source, if they are not all the same.
        is_new: whether anything was written: the new folder may have held it all already.
    """

    runs: int = 0
    shared: int = 0
    unfinished: list[Path] = field(default_factory=list)
    code: dict[Path, list[str]] = field(default_factory=dict)
    is_new: bool = True


@dataclass(frozen=True)
class _Run:
    folder: Path
    record: Record
    files: tuple[str, ...]


def merge(sources: Sequence[Path], into: Path, known: Known | None = None) -> Merged:
    """Copy the runs of all sources into one new folder, each into a folder named by its hash, and make the table.

    A kill leaves the new folder unmade. Asked for again when it is there, nothing is written.

    Args:
        sources: results folders; each run's folder is checked as `verify` does, and the runs against each other.
        into: the new folder, which must not hold anything else.
        known: what is installed, for the new table.

    Raises:
        Contradiction: one run with two contents, two teachers under one name, or a folder that does not fit in itself.
        DfkdError: a folder cannot be read or written, or `into` holds something else.
    """
    merged, runs = Merged(), dict[str, _Run]()
    findings, digests, code = list[Finding](), list[Digest](), dict[Path, set[str]]()
    for source in dict.fromkeys(sources):
        if not source.is_dir():
            raise DfkdError(f"there is no results folder {source}: name another one")
        for folder in run_folders(source):
            checked = check_run(folder)
            if checked.record is None and not checked.path.exists():
                merged.unfinished.append(folder)
                continue
            findings += checked.findings
            if checked.record is None:
                continue
            digest = Digest.of(checked.path, checked.record)
            code.setdefault(source, set()).add(digest.code)
            run = _Run(folder, checked.record, tuple(_files(folder, checked.record)))
            first = runs.setdefault(digest.run, run)
            if first is run:
                digests.append(digest)
                continue
            merged.shared += 1
            findings += _same(first, run)
    findings += check_between(digests)
    findings += check_teacher_names(digests)
    if findings:
        # A teacher may be at odds with others of its cell and with others of its name.
        raise Contradiction(list({(finding.path, finding.field): finding for finding in findings}.values()))
    if not runs:
        raise DfkdError(f"there are no records in {' and '.join(map(str, sources))}: nothing to merge")
    merged.runs = len(runs)
    if len(set().union(*code.values())) > 1:
        merged.code = {source: sorted(versions) for source, versions in code.items()}
    merged.is_new = not _holds(into, runs)
    if merged.is_new:
        _write(into, runs, known)
    return merged


def _files(folder: Path, record: Record) -> Iterator[str]:
    yield RECORD_FILE
    for name in (CURVE_FILE, record.images, _TRACEBACK):
        if name is not None and (folder / name).is_file():
            yield name


def _same(first: _Run, other: _Run) -> Iterator[Finding]:
    """One run in two places has the same bytes in both."""
    one, two = first.record.model_dump(mode="json"), other.record.model_dump(mode="json")
    different = [name for name in one if one[name] != two[name]]
    if different:
        field, place = different[0], first.folder / RECORD_FILE
        yield Finding(other.folder / RECORD_FILE, field, f"of run {first.record.run} differs from that in {place}")
        return
    for name in sorted({*first.files, *other.files}):
        if name not in first.files or name not in other.files:
            has, lacks = (first, other) if name in first.files else (other, first)
            yield Finding(has.folder, name, f"of run {first.record.run} is missing in {lacks.folder}")
        elif (first.folder / name).read_bytes() != (other.folder / name).read_bytes() and name != RECORD_FILE:
            yield Finding(other.folder / name, "content", f"differs from that of {first.folder / name}")


def _holds(into: Path, runs: dict[str, _Run]) -> bool:
    """Whether the new folder is there already and holds just these runs; false if it is not there or empty.

    Raises:
        DfkdError: it holds something else.
    """
    if not into.exists() or (into.is_dir() and not any(into.iterdir())):
        return False
    if into.is_dir():
        found = {folder.name: folder for folder in run_folders(into)}
        whole = found.keys() == runs.keys() and all(_copied(run, found[name]) for name, run in runs.items())
        if whole:
            return True
    raise DfkdError(f"{into} is there and holds something else than this merge: name a new folder with --into")


def _copied(run: _Run, folder: Path) -> bool:
    there = all((folder / name).is_file() for name in run.files)
    return there and all((folder / name).read_bytes() == (run.folder / name).read_bytes() for name in run.files)


def _write(into: Path, runs: dict[str, _Run], known: Known | None) -> None:
    temporary = into.with_name(f".{into.name}.merging")
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        temporary.mkdir()
    except FileExistsError as error:
        raise DfkdError(
            f"another merge into {into} is in progress, or one was killed: wait for it, or remove {temporary}"
        ) from error
    except OSError as error:
        raise DfkdError(f"cannot write into {into.parent} ({error.strerror}): name another folder") from error
    try:
        for name, run in runs.items():
            (temporary / name).mkdir()
            for file in run.files:
                _copy(run.folder / file, temporary / name / file)
        (temporary / TABLE_FILE).write_text(table_text(temporary, known), encoding="utf-8", newline="")
        temporary.rename(into)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, OSError):
            raise DfkdError(f"cannot write {into} ({error.strerror}); nothing was merged") from error
        raise


def _copy(source: Path, target: Path) -> None:
    shutil.copyfile(source, target)
    with target.open("rb") as written:
        os.fsync(written.fileno())
