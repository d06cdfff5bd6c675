"""`dfkd-bench claims`: published numbers, and how measured ones compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dfkd_bench.cli.console import Column, table
from dfkd_bench.cli.options import examples

if TYPE_CHECKING:
    from dfkd_bench.leaderboard.claims import Claim

EXAMPLES = examples(
    "dfkd-bench claims --method cmi --dataset cifar10",
    "dfkd-bench claims --pair wrn40_2:wrn16_1 --results results",
)


def claims(
    method: Annotated[str | None, typer.Option(help="A method, by the published name or by ours.")] = None,
    dataset: Annotated[str | None, typer.Option(help="A dataset.")] = None,
    pair: Annotated[str | None, typer.Option(help="TEACHER:STUDENT.")] = None,
    results: Annotated[
        Path | None, typer.Option(help="A folder with records: what was measured stands beside each number.")
    ] = None,
) -> None:
    """List published numbers with their sources. Where sources disagree, each stands."""
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.leaderboard.claims import load_claims, select
    from dfkd_bench.leaderboard.text import number, plain

    found = select(load_claims(), method=method, dataset=dataset, pair=pair)
    if not found:
        raise DfkdError("no published number fits: leave out --method, --dataset or --pair to see more")
    measured = None if results is None else _measured(found, results)
    right = [Column(name, right=True) for name in ("Top-1 %", "Hours")]
    beside = ("Measured", "Verdict") if measured is not None else ()
    rows = []
    for claim in found:
        row = [claim.method, claim.ours or "-", claim.dataset, claim.pair, number(claim.top1)]
        row += [number(claim.reported_hours), *(measured[claim] if measured is not None else ())]
        rows.append([plain(text) for text in (*row, claim.grade, claim.source, claim.notes)])
    columns = ("Method", "Ours", "Dataset", "Pair", *right, *beside, "Grade", "Source", "Notes")
    table(f"{len(found)} published numbers", columns, rows)


def _measured(found: list[Claim], folder: Path) -> dict[Claim, tuple[str, str]]:
    """What was measured, with the gap, and the verdict, for each claim."""
    from dfkd_bench.cli.tables import report_damage
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.hooks.registry import default_registry
    from dfkd_bench.leaderboard.build import read_table
    from dfkd_bench.leaderboard.claims import untried
    from dfkd_bench.leaderboard.text import number, signed
    from dfkd_bench.planning.installed import Installed
    from dfkd_bench.results.records import Results

    if not folder.is_dir():
        raise DfkdError(f"there is no results folder {folder}: name another with --results")
    table = read_table(Results(folder), Installed(default_registry()), report_damage)
    shown: dict[Claim, tuple[str, str]] = {claim: ("-", untried(claim)) for claim in found}
    for _, row in table.rows():
        for item in row.comparisons:
            if item.gap is None or item.claim not in shown:
                continue
            text = f"{number(row.mean)} ({signed(item.gap)})"
            # Several rows: each stands.
            before = shown[item.claim]
            verdict = item.verdict if before[0] == "-" else f"{before[1]}; {item.verdict}"
            shown[item.claim] = (text if before[0] == "-" else f"{before[0]}; {text}", verdict)
    return shown
