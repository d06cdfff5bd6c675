"""`dfkd-bench merge`: results folders into a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dfkd_bench.cli.console import say
from dfkd_bench.cli.options import examples

EXAMPLES = examples("dfkd-bench merge results-a results-b --into results")


def merge(
    sources: Annotated[list[Path], typer.Argument(metavar="RESULTS...", help="The results folders, two or more.")],
    into: Annotated[Path, typer.Option(help="The new folder; each run goes into a folder of its own there.")],
) -> None:
    """Copy the records of several results folders into a new one, unless they contradict each other."""
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.hooks.registry import default_registry
    from dfkd_bench.planning.installed import Installed
    from dfkd_bench.sharing.merge import Contradiction
    from dfkd_bench.sharing.merge import merge as merge_folders

    if len(sources) < 2:
        raise DfkdError("merge takes two results folders or more: dfkd-bench merge A B --into C")
    try:
        merged = merge_folders(sources, into, Installed(default_registry()))
    except Contradiction as error:
        for finding in error.findings:
            say(str(finding))
        say(f"nothing was merged: {len(error.findings)} things do not fit")
        raise typer.Exit(1) from error
    for folder in merged.unfinished:
        say(f"left out: {folder} has no record")
    if merged.code:
        say("the records were made by different versions of the code:")
        for source, versions in merged.code.items():
            say(f"  {source}: {'; '.join(versions)}")
    done = "merged into" if merged.is_new else "are in it already:"
    say(f"{merged.runs} runs ({merged.shared} in more than one source) {done} {into}")
