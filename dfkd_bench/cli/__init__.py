"""The command line: one file per command, each only parses, calls the API, prints. Imports no torch."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from dfkd_bench.cli import (
    cache,
    check,
    claims,
    figures,
    grid,
    kept,
    leaderboard,
    listings,
    merge,
    new,
    publish,
    run,
    show,
    status,
    teacher,
    upgrade,
    verify,
)
from dfkd_bench.cli.console import complain, say, tolerate
from dfkd_bench.errors import DfkdError

__all__ = ["app", "main"]

app = typer.Typer(
    name="dfkd-bench",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_RUN, _RESULTS, _LOOK_UP, _WRITE = "Run", "Results", "Look up", "Write your own"

app.command("run", rich_help_panel=_RUN, epilog=run.EXAMPLES)(run.run)
app.add_typer(grid.app, name="grid", rich_help_panel=_RUN, epilog=grid.EXAMPLES)
app.add_typer(teacher.app, name="teacher", rich_help_panel=_RUN, epilog=teacher.EXAMPLES)
app.command("status", rich_help_panel=_RESULTS, epilog=status.EXAMPLES)(status.status)
app.command("leaderboard", rich_help_panel=_RESULTS, epilog=leaderboard.EXAMPLES)(leaderboard.leaderboard)
app.command("measure", rich_help_panel=_RESULTS, epilog=kept.MEASURE_EXAMPLES)(kept.measure)
app.command("export", rich_help_panel=_RESULTS, epilog=kept.EXPORT_EXAMPLES)(kept.export)
app.command("figures", rich_help_panel=_RESULTS, epilog=figures.EXAMPLES)(figures.figures)
app.command("upgrade", rich_help_panel=_RESULTS)(upgrade.upgrade)
app.command("verify", rich_help_panel=_RESULTS, epilog=verify.EXAMPLES)(verify.verify)
app.command("merge", rich_help_panel=_RESULTS, epilog=merge.EXAMPLES)(merge.merge)
app.command("publish", rich_help_panel=_RESULTS, epilog=publish.EXAMPLES)(publish.publish)
app.command("methods", rich_help_panel=_LOOK_UP)(listings.methods)
app.command("show", rich_help_panel=_LOOK_UP, epilog=show.EXAMPLES)(show.show)
app.command("claims", rich_help_panel=_LOOK_UP, epilog=claims.EXAMPLES)(claims.claims)
app.command("models", rich_help_panel=_LOOK_UP)(listings.models)
app.command("datasets", rich_help_panel=_LOOK_UP)(listings.datasets)
app.command("cache", rich_help_panel=_LOOK_UP, epilog=cache.EXAMPLES)(cache.cache)
app.command("new", rich_help_panel=_WRITE, epilog=new.EXAMPLES)(new.new)
app.command("plugins", rich_help_panel=_WRITE)(listings.plugins)
app.command("check", rich_help_panel=_WRITE, epilog=check.EXAMPLES)(check.check)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        say(f"dfkd-bench {version('dfkd-bench')}")
        raise typer.Exit


@app.callback()
def _program(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Compare data-free knowledge distillation methods: teacher in, student out, honest numbers."""


def main() -> None:
    """The program. A user's mistake is one sentence, or several in a grid file, and exit status 2."""
    tolerate()
    try:
        app()
    except DfkdError as error:
        for sentence in error.sentences:
            complain(sentence)
        sys.exit(2)
    except OSError as error:
        if error.filename is None:  # not about a path, and so no mistake of the user's
            raise
        complain(f"{error.filename} cannot be used ({error.strerror}): fix its path or permissions")
        sys.exit(2)
