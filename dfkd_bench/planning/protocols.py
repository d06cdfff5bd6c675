"""The two protocols: a method's own schedule, or one budget for all. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dfkd_bench.errors import DfkdError
from dfkd_bench.method import SMALL, STUDENT

__all__ = ["BUDGETS", "SHARED", "matched"]

#: What `matched` gives every method, by preset. The cap leaves room for a variant of each initial image and more.
BUDGETS: dict[str, dict[str, Any]] = {
    "quick": {
        **STUDENT,
        "epochs": 6,
        "steps_per_epoch": 80,
        "growing": False,
        "batch_size": 128,
        "initial_images": 256,
        "bank_capacity": 2048,
    },
    "small": {**SMALL, "initial_images": 1280, "bank_capacity": 8192},
    "paper": {
        **STUDENT,
        "epochs": 200,
        "steps_per_epoch": 400,
        "growing": False,
        "batch_size": 256,
        "initial_images": 40_000,
        "bank_capacity": 100_000,
    },
}

#: Fields of a schedule that no method may have to itself under `matched`.
SHARED = frozenset({*BUDGETS["paper"], "warmup_rounds"})


def matched(schedule: Mapping[str, Any], preset: str, *, stream: bool) -> dict[str, Any]:
    """A method's schedule with the shared budget laid over it.

    Rounds in the epochs stay the method's own. A synthesizer that streams has no bank to fill.

    Raises:
        DfkdError: there is no budget for the preset.
    """
    if preset not in BUDGETS:
        raise DfkdError(
            f"the protocol 'matched' has no budget for the preset '{preset}': choose {' or '.join(BUDGETS)}, "
            "or the protocol native"
        )
    laid = {**schedule, **BUDGETS[preset]}
    if stream:
        laid["initial_images"] = None
    return laid
