"""`dfkd-bench check`: the contract kit, on stages and methods by name."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from dfkd_bench.cli.console import say, styled
from dfkd_bench.cli.options import DeviceChoice, examples

if TYPE_CHECKING:
    from dfkd_bench.contract import Finding

_COLORS = {"pass": "green", "fail": "bold red", "skipped": "yellow"}

EXAMPLES = examples(
    "dfkd-bench check noise --set synthesizer.batch_size=4",
    "dfkd-bench check kd --pair resnet8:resnet8 --precision bf16",
)


class Precision(StrEnum):
    """Of the networks."""

    fp32 = "fp32"
    bf16 = "bf16"


def check(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Methods or stages.")],
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="STAGE.OPTION=VALUE", help="Try a stage with this option, such as augmenter.model=FOLDER."
        ),
    ] = None,
    pair: Annotated[
        str | None,
        typer.Option(
            metavar="TEACHER:STUDENT",
            help="Make the checks that depend on the networks on these, with fresh weights; default: two tiny ones.",
        ),
    ] = None,
    precision: Annotated[Precision, typer.Option(help="Of the networks.")] = Precision.fp32,
    device: Annotated[DeviceChoice, typer.Option(help="Where to play; auto: a GPU if there is one.")] = (
        DeviceChoice.cpu
    ),
) -> None:
    """Check stages against the contract on tiny networks: pass, fail or skipped, with the reason.

    Each stage is checked with all settings that recipes use it with, which takes seconds to a minute.
    """
    from dfkd_bench.contract import check_name
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.hooks.registry import STAGE_KINDS
    from dfkd_bench.planning.requests import Override

    options: dict[str, dict[str, str]] = {}
    for text in set_ or []:
        override = Override.parse(text, STAGE_KINDS)
        if override.method is not None:
            raise DfkdError(f"'{text}' names a method, but check sets options of stages: write stage.option=value")
        options.setdefault(override.part, {})[override.option] = override.value
    found: list[Finding] = []
    for name in names:
        for finding in check_name(name, options=options, precision=precision.value, pair=pair, device=device.value):
            _print(finding, found[-1] if found else None)
            found.append(finding)
    counts = {verdict: sum(finding.verdict == verdict for finding in found) for verdict in _COLORS}
    say()
    say(f"{counts['pass']} passed, {counts['fail']} failed, {counts['skipped']} skipped")
    if counts["fail"]:
        raise typer.Exit(1)


def _print(finding: Finding, before: Finding | None) -> None:
    if before is None or before.stage != finding.stage:
        say()
        styled((finding.stage, "bold"))
    reason = f": {finding.reason}" if finding.reason else ""
    styled("  ", (f"{finding.verdict:8}", _COLORS[finding.verdict]), f"{finding.check}{reason}")
    if finding.where:
        styled((f"           at {finding.where}", "dim"))
