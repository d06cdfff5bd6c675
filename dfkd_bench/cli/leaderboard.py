"""`dfkd-bench leaderboard`: every record of a results folder as one table."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfkd_bench.cli.console import raw, say
from dfkd_bench.cli.options import ResultsDir, examples
from dfkd_bench.leaderboard.page.pictures import Pictures

if TYPE_CHECKING:
    from dfkd_bench.leaderboard.build import Known
    from dfkd_bench.leaderboard.model import Table

EXAMPLES = examples(
    "dfkd-bench leaderboard --results results/reference/digits-quick --form latex --output table.tex",
    "dfkd-bench leaderboard --form html --output leaderboard.html",
)


class Form(StrEnum):
    """How the table is shown."""

    terminal = "terminal"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"
    bibtex = "bibtex"
    html = "html"


def leaderboard(
    results: ResultsDir = Path("results"),
    form: Annotated[
        Form,
        typer.Option(
            help="terminal: print the table and update leaderboard.csv. csv, markdown, latex (booktabs): every row. "
            "bibtex: the methods and datasets shown. html: one page with charts, curves, pictures and provenance."
        ),
    ] = Form.terminal,
    output: Annotated[
        Path | None, typer.Option(help="Write there in place of standard output (not with terminal).")
    ] = None,
    pictures: Annotated[
        Pictures | None,
        typer.Option(
            help="With html, the synthesized images: embed small copies, which is the default, link the files, or none."
        ),
    ] = None,
) -> None:
    """Make one table of every record in the results folder: ranks with ties, intervals, claims, costs."""
    from dfkd_bench.cli.tables import print_table, report_damage
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.hooks.registry import default_registry
    from dfkd_bench.leaderboard.build import read_table
    from dfkd_bench.leaderboard.update import CSV_FILE, update_leaderboard
    from dfkd_bench.planning.installed import Installed
    from dfkd_bench.results.records import Results

    if not results.is_dir():
        raise DfkdError(f"there is no results folder {results}: run something first, or name another with --results")
    if output is not None and form is Form.terminal:
        raise DfkdError("--output wants a --form for a file: csv, markdown, latex, bibtex or html")
    if pictures is not None and form is not Form.html:
        raise DfkdError("--pictures is for --form html: other forms show none")
    known = Installed(default_registry())
    if form is Form.terminal:
        table = update_leaderboard(Results(results), report_damage, known)
    else:
        table = read_table(Results(results), known, report_damage)
    if not table.cells and not table.left_out:
        raise DfkdError(
            f"there are no records in {results}: run something first, or name another folder with --results"
        )
    if form is Form.terminal and table.cells:
        print_table(table)
        say(f"{sum(len(cell.rows) for cell in table.cells)} rows in {results / CSV_FILE}")
    elif form is Form.html and table.cells:
        from dfkd_bench.leaderboard.page.render import page_text

        page = Path() if output is None else output.parent
        shown = pictures or Pictures.embed
        _put(page_text(table, results, shown, page, lambda text: report_damage(DfkdError(text))), output)
    elif table.cells:
        _put(_text(table, form, known), output)
    if table.left_out:
        raise typer.Exit(1)


def _text(table: Table, form: Form, known: Known) -> str:
    from dfkd_bench.leaderboard.bibtex import bibtex_text
    from dfkd_bench.leaderboard.csv_form import csv_text
    from dfkd_bench.leaderboard.latex import latex_text
    from dfkd_bench.leaderboard.markdown import markdown_text

    if form is Form.bibtex:
        return bibtex_text(table, known)
    return {Form.csv: csv_text, Form.markdown: markdown_text, Form.latex: latex_text}[form](table)


def _put(text: str, output: Path | None) -> None:
    from dfkd_bench.files import replacing

    if output is None:
        raw(text.removesuffix("\n"))
        return
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")
    say(f"written to {output}", err=True)
