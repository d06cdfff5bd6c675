"""The command line: one file per command, each only parses, calls the API, prints. Imports no torch."""

from __future__ import annotations

import sys

import typer

from dfkd_bench.cli import check, grid, leaderboard, listings, run, show, status, teacher, upgrade
from dfkd_bench.errors import DfkdError

__all__ = ["app", "main"]

app = typer.Typer(
    name="dfkd-bench",
    help="Compare data-free knowledge distillation methods: teacher in, student out, honest numbers.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("status")(status.status)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("upgrade")(upgrade.upgrade)
app.command("methods")(listings.methods)
app.command("plugins")(listings.plugins)
app.command("models")(listings.models)
app.command("datasets")(listings.datasets)
app.command("check")(check.check)
app.command("show")(show.show)
app.add_typer(teacher.app, name="teacher")
app.add_typer(grid.app, name="grid")


def main() -> None:
    """The program. A user's mistake is one sentence, or several in a grid file, and exit status 2."""
    try:
        app()
    except DfkdError as error:
        for sentence in str(error).splitlines():
            print(f"dfkd-bench: {sentence}", file=sys.stderr)
        sys.exit(2)
