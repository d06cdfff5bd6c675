"""The names of a split's parquet files. Imports no parquet library: it takes its time."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from dfkd_bench.errors import DfkdError

__all__ = ["SHARD", "missing_shards"]

SHARD = re.compile(r"(?P<prefix>.+)-(?P<index>\d{5})-of-(?P<total>\d{5})(-[0-9a-f]+)?\.parquet")
"""What the hub calls the files of a split."""


def missing_shards(files: Sequence[Path]) -> list[str]:
    """The names of the files that are missing from a set of `PREFIX-00000-of-0000N.parquet`; other names are ignored.

    Raises:
        DfkdError: the files are of two sets, or one shard is there twice.
    """
    shards = [match for file in files if (match := SHARD.fullmatch(file.name))]
    if not shards:
        return []
    totals = {match["total"] for match in shards}
    there = {match["index"] for match in shards}
    if len(totals) > 1 or len(there) < len(shards):
        names = ", ".join(match.string for match in shards)
        raise DfkdError(f"{files[0].parent} holds files that do not belong together ({names}): keep one set of them")
    (total,) = totals
    every = (f"{index:05d}" for index in range(int(total)))
    return [f"{shards[0]['prefix']}-{index}-of-{total}.parquet" for index in every if index not in there]
