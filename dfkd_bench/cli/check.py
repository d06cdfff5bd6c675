"""`dfkd-bench check`: the contract kit, on stages and methods by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from dfkd_bench.contract import Finding

_COLOURS = {"pass": "green", "fail": "bold red", "skipped": "yellow"}


def check(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Methods or stages.")],
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="OPTION=VALUE", help="Try a stage with this option, such as model=FOLDER."),
    ] = None,
) -> None:
    """Hold stages against the contract, on tiny networks: pass, fail or skipped, with the reason.

    A method's stages are checked with all settings that recipes use them with. Takes seconds to a minute each.
    """
    from dfkd_bench.contract import check_name
    from dfkd_bench.errors import DfkdError

    options: dict[str, str] = {}
    for text in set_ or []:
        option, equals, value = text.partition("=")
        if not equals:
            raise DfkdError(f"'{text}' sets nothing: write OPTION=VALUE, for example steps=5")
        options[option] = value
    found: list[Finding] = []
    for name in names:
        for finding in check_name(name, options=options):
            _print(finding, found[-1] if found else None)
            found.append(finding)
    counts = {verdict: sum(finding.verdict == verdict for finding in found) for verdict in _COLOURS}
    typer.echo(f"\n{counts['pass']} passed, {counts['fail']} failed, {counts['skipped']} skipped")
    if counts["fail"]:
        raise typer.Exit(1)


def _print(finding: Finding, before: Finding | None) -> None:
    from rich.console import Console
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    if before is None or before.stage != finding.stage:
        console.print(Text(f"\n{finding.stage}", style="bold"))
    line = Text.assemble("  ", (f"{finding.verdict:8}", _COLOURS[finding.verdict]), f"{finding.check}")
    if finding.reason:
        line.append(f": {finding.reason}")
    console.print(line)
