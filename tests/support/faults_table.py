"""The table of `docs/faults.md`, read for the tests that hold it to be true."""

from __future__ import annotations

import re
from pathlib import Path

from pydantic import BaseModel

from dfkd_bench.hooks.registry import Registry

__all__ = ["ROOT", "ROWS", "parity", "with_parity"]

ROOT = Path(__file__).parents[2]
_LINES = [line for line in (ROOT / "docs" / "faults.md").read_text().splitlines() if line.startswith("| B")]
#: What is released, what is here, the parity options and the test, by the fault's number.
ROWS = {cells[0]: cells[1:] for cells in ([cell.strip() for cell in line.strip("|").split("|")] for line in _LINES)}


def parity(fault: str) -> tuple[str, dict[str, str]]:
    """The synthesizer that has the parity options of a fault, and the options as a user writes them."""
    found = re.fullmatch(r"`([\w-]+): (\w+=\S+(?: \w+=\S+)*)`", ROWS[fault][2])
    assert found, f"{fault}: '{ROWS[fault][2]}' is not `SYNTHESIZER: OPTION=VALUE ...`"
    return found[1], dict(part.split("=") for part in found[2].split())


def with_parity(fault: str, **others: object) -> BaseModel:
    """The options of the synthesizer that a row names, with the values that it gives."""
    name, values = parity(fault)
    return Registry().load("synthesizer", name).Options.model_validate({**others, **values})
