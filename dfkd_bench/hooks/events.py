"""What happens in a run, as told to plugins on the `dfkd_run_event` hook."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["EventKind", "RunEvent"]

EventKind = Literal["started", "phase", "progress", "epoch", "finished", "failed"]


@dataclass(frozen=True)
class RunEvent:
    """One thing that happened.

    Attributes:
        kind: `started`, `phase` (one begins: `data["phase"]`), `progress` (`data["done"]` of `data["total"]` in the
            phase), `epoch` (`data` is a point of the curve), `finished` or `failed` (`data["reason"]`).
        run: the run's hash, or the teacher's name while a teacher is trained.
        title: what a person calls the run, such as `dda wrn40_2:wrn16_1 digits seed 0`.
    """

    kind: EventKind
    run: str
    title: str
    data: Mapping[str, Any] = field(default_factory=dict)
