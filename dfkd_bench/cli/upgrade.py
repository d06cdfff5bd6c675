"""`dfkd-bench upgrade`: records of an earlier schema rewritten in the current one."""

from __future__ import annotations

from pathlib import Path

from dfkd_bench.cli.console import end_with, say
from dfkd_bench.cli.options import ResultsDir


def upgrade(results: ResultsDir = Path("results")) -> None:
    """Rewrite records of an earlier schema in the current one. Earlier records can be read without this."""
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.results.records import Results
    from dfkd_bench.results.upgrade import upgrade as upgrade_records

    if not results.is_dir():
        raise DfkdError(f"there is no results folder {results}: name another with --results")
    damaged: list[DfkdError] = []
    done = upgrade_records(Results(results), damaged.append)
    say(f"{done.written} records rewritten, {done.current} were current already")
    end_with(damaged)
