"""`dfkd-bench cache`: what stages keep between runs, its size, and how to make it smaller."""

from __future__ import annotations

from typing import Annotated

import typer

from dfkd_bench.cli.console import say
from dfkd_bench.cli.options import examples

EXAMPLES = examples("dfkd-bench cache", "dfkd-bench cache --limit 10")

_GIB = 2**30


def cache(
    limit: Annotated[
        float | None,
        typer.Option(min=0, metavar="GIB", help="Delete what was used longest ago until so much is left; 0: all."),
    ] = None,
) -> None:
    """Say how large the cache of diffused images is, and keep it below a size. Deleting loses nothing but time."""
    from dfkd_bench.files import cache_folder
    from dfkd_bench.leaderboard.text import amount

    folder = cache_folder("stages")
    files = []
    for path in folder.rglob("*") if folder.is_dir() else ():
        if path.is_file() and not path.is_symlink():
            found = path.stat()
            files.append((found.st_mtime, found.st_size, path))
    total = sum(size for _, size, _ in files)
    say(f"{folder}: {len(files)} files, {amount(total, 1024)}B")
    if limit is None:
        return
    deleted = 0
    for _, size, path in sorted(files):
        if total <= limit * _GIB:
            break
        path.unlink(missing_ok=True)
        total, deleted = total - size, deleted + 1
    say(f"{deleted} files deleted, {amount(total, 1024)}B left")
