"""One run's folder against itself: record, curve, picture, and what else is there. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from dfkd_bench.errors import DfkdError, first_line
from dfkd_bench.files import file_hash, listed
from dfkd_bench.results.curves import CURVE_FILE
from dfkd_bench.results.records import Record
from dfkd_bench.results.scan import BANK_FILE, RECORD_FILE, STUDENT_FILE
from dfkd_bench.sharing.findings import Finding
from dfkd_bench.sharing.folders import careful_record
from dfkd_bench.sharing.numbers import check_curve, check_numbers

__all__ = ["CheckedRun", "check_run"]

#: What is in a run's folder beside the record, its curve and its picture: a failure's traceback, what an unfinished
#: run resumes from, what `--keep-bank` keeps, trackers' files, and records that a later run replaced.
KNOWN_FILES = frozenset({"traceback.txt", "checkpoint.pt", "progress.json", "events.jsonl", BANK_FILE, STUDENT_FILE})
KNOWN_FOLDERS = frozenset({"tensorboard", "replaced"})


@dataclass
class CheckedRun:
    """What a run's folder holds.

    Attributes:
        path: of the record.
        record: None where there is none that can be read.
        unchecked_picture: there is a picture whose hash the record does not have.
        findings: what does not fit.
    """

    path: Path
    record: Record | None = None
    unchecked_picture: bool = False
    findings: list[Finding] = field(default_factory=list)


def check_run(folder: Path) -> CheckedRun:
    """Check a run's folder.

    Raises:
        DfkdError: the folder cannot be read.
    """
    path = folder / RECORD_FILE
    run = CheckedRun(path)
    names = {entry.name for entry in listed(folder)}
    if RECORD_FILE not in names:
        run.findings.append(Finding(folder, RECORD_FILE, "is missing: the run is not finished, or it was removed"))
        return run
    try:
        run.record = careful_record(path)
    except DfkdError as error:
        # The sentence names the file itself.
        run.findings.append(Finding(path, "content", str(error).removeprefix(f"{path} ")))
        return run
    run.findings += _check(folder, run.record, names)
    run.unchecked_picture = run.record.images is not None and run.record.images_sha256 is None
    return run


def _check(folder: Path, record: Record, names: set[str]) -> Iterator[Finding]:
    path = folder / RECORD_FILE
    if folder.resolve().name != record.run:
        yield Finding(folder, "name", f"is not {record.run}, the hash of the spec in its record")
    yield from check_numbers(path, record)
    yield from _teacher(path, record)
    try:
        curve = record.curve()
    except DfkdError as error:
        yield Finding(folder / CURVE_FILE, "content", f"does not fit curve_sha256 in {RECORD_FILE}: {error}")
    else:
        yield from check_curve(path, record, curve)
    yield from _picture(folder, record)
    own = {RECORD_FILE, record.images, CURVE_FILE if record.curve_sha256 is not None else None}
    for name in sorted(names - own - KNOWN_FILES):
        known = name in KNOWN_FOLDERS and (folder / name).is_dir()
        if not known and not name.startswith("."):
            yield Finding(folder, name, "is no file that a run leaves")


def _teacher(path: Path, record: Record) -> Iterator[Finding]:
    teacher, asked = record.teacher, record.spec
    if teacher is None:
        return
    if teacher.model != asked.pair.teacher:
        yield Finding(path, "teacher.model", f"is {teacher.model}, but the spec asks for {asked.pair.teacher}")
    if asked.teacher.sha256 is not None and teacher.sha256 != asked.teacher.sha256:
        yield Finding(path, "teacher.sha256", f"is {teacher.sha256}, but the spec asks for {asked.teacher.sha256}")


def _picture(folder: Path, record: Record) -> Iterator[Finding]:
    path = folder / RECORD_FILE
    if record.images is None:
        if record.images_sha256 is not None:
            yield Finding(path, "images_sha256", "is the hash of no picture: images is null")
        return
    if Path(record.images).name != record.images:
        yield Finding(path, "images", f"is {record.images!r}, which is no file beside the record")
        return
    picture = folder / record.images
    if picture.is_symlink() or not picture.is_file():
        yield Finding(picture, "file", f"is missing, but images in {RECORD_FILE} names it")
    elif record.images_sha256 is not None:
        if file_hash(picture) != record.images_sha256:
            yield Finding(picture, "bytes", f"do not fit images_sha256 in {RECORD_FILE}: it was swapped or changed")
    else:
        yield from _opened(picture)


def _opened(picture: Path) -> Iterator[Finding]:
    from PIL import Image

    try:
        with Image.open(picture) as image:
            image.verify()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        yield Finding(picture, "bytes", f"are no picture ({first_line(error)})")
