"""`dfkd-bench verify`: a results folder against itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfkd_bench.cli.console import say
from dfkd_bench.cli.options import DataRoot, examples

if TYPE_CHECKING:
    from dfkd_bench.sharing.verify import Verdict

EXAMPLES = examples("dfkd-bench verify results", "dfkd-bench verify --results results --grid grid.toml")
_GRID_FILE = "grid.toml"

Folder = Annotated[Path | None, typer.Argument(metavar="[RESULTS]", help="The results folder; by default results.")]
Option = Annotated[Path | None, typer.Option("--results", help="The same, as an option.")]


def chosen(argument: Path | None, option: Path | None) -> Path:
    """The results folder that one of the two names.

    Raises:
        DfkdError: they name different ones.
    """
    from dfkd_bench.errors import DfkdError

    if argument is not None and option is not None and argument != option:
        raise DfkdError(f"{argument} and --results {option} name two results folders: give one of them")
    return argument or option or Path("results")


def verify(
    folder: Folder = None,
    results: Option = None,
    grid: Annotated[
        Path | None,
        typer.Option(help=f"Every run of this grid file must be there; by default of {_GRID_FILE} in the folder."),
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Check records, curves, pictures and leaderboard.csv against each other; exit status 1 if anything does not fit.

    Nothing is written.
    """
    where = chosen(folder, results)
    if grid is None and (where / _GRID_FILE).is_file():
        grid = where / _GRID_FILE
    expected = {} if grid is None else _asked(grid, where, data_root)
    from dfkd_bench.hooks.registry import default_registry
    from dfkd_bench.planning.installed import Installed
    from dfkd_bench.sharing.verify import verify as verify_folder

    verdict = verify_folder(where, expected, Installed(default_registry()))
    show(verdict)
    if verdict.findings:
        raise typer.Exit(1)


def show(verdict: Verdict) -> None:
    """Print each misfit and then the sum."""
    for finding in verdict.findings:
        say(str(finding))
    if verdict.unchecked_pictures:
        say(f"{verdict.unchecked_pictures} pictures were only opened: records of earlier versions have no hash of them")
    outcome = f"{len(verdict.findings)} things do not fit" if verdict.findings else "everything fits"
    say(f"{verdict.records} records and {verdict.tables} tables: {outcome}")


def _asked(grid: Path, results: Path, data_root: Path | None) -> dict[str, str]:
    """The titles of a grid's runs by hash."""
    from dfkd_bench import api
    from dfkd_bench.no_gc import without_gc

    with without_gc():
        from dfkd_bench.workbench import Workbench  # knows networks, and so imports torch

        bench = Workbench.make(results=results, data_root=data_root, device="cpu")
        return {planned.spec.hash: planned.spec.title for planned in api.plan_grid(bench, grid, keep_teacher=False)}
