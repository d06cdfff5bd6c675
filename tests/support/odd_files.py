"""What may lie where a file of ours is expected: twenty-odd kinds of files that people and other programs leave."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

__all__ = ["ABSENT", "ODD", "snapshot"]


def _write(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def _large(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**33)  # takes no room on the disk


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # a socket's path must be short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(before)


#: By name: what makes such a file at a path.
ODD: dict[str, Callable[[Path], object]] = {
    "empty": _write(b""),
    "blank": _write(b" \n\n"),
    "no object": _write(b"[]"),
    "nothing": _write(b"null"),
    "a number": _write(b"7"),
    "words": _write(b"hello, world\n"),
    "a web page": _write(b"<!DOCTYPE html><html>404</html>"),
    "another program's": _write(b'{"name": "x", "version": "1.0.0", "scripts": {}}'),
    "cut": _write(b'{"schema_version": 2, "run": "00'),
    "a later schema": _write(b'{"schema_version": 3}'),
    "schema 1 with a number for a curve": _write(b'{"schema_version": 1, "curve": 5}'),
    "deep arrays": _write(b"[" * 3000 + b"]" * 3000),
    "deep tables": _write(b'{"a":' * 3000 + b"1" + b"}" * 3000),
    "not a number": _write(b'{"mean": [NaN], "pretrained_cfg": {"mean": [NaN], "std": [1]}}'),
    "infinite": _write(b'{"mean": [1e999], "pretrained_cfg": {"mean": [1e999], "std": [1]}}'),
    "many digits": _write(b'{"mean": [%s], "pretrained_cfg": {"mean": [%s], "std": [1]}}' % (b"9" * 5000, b"9" * 5000)),
    "Latin letters": _write('{"spec": "ä", "pretrained_cfg": 1}'.encode("latin-1")),
    "UTF-16": _write('{"run": 1}'.encode("utf-16")),
    "zeros": _write(bytes(1000)),
    "all bytes": _write(bytes(range(256))),
    "half a pair": _write(b'{"run": "\\ud800", "mean": "\\ud800", "pretrained_cfg": "\\ud800"}'),
    "markup and colors": _write(b'{"[/red]": "\x1b[31m", "pretrained_cfg": "[/red]"}'),
    "a folder": lambda path: path.mkdir(),
    "a link to itself": lambda path: path.symlink_to(path),
    "a link to a device": lambda path: path.symlink_to("/dev/zero"),
    "a link to nothing": lambda path: path.symlink_to(path.parent / "nothing"),
    "a pipe": os.mkfifo,
    "a socket": _socket,
    "8 GiB": _large,
}
#: What is as good as no file.
ABSENT = "a link to nothing"


def snapshot(folder: Path) -> dict[str, object]:
    """Everything below a folder: what it is, its size, its time and small contents."""
    found: dict[str, object] = {}
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(place, name)
            info = path.lstat()
            content = path.read_bytes() if path.is_file() and info.st_size < 10**6 else None
            found[str(path)] = (info.st_mode, info.st_size, info.st_mtime_ns, content)
    return found
