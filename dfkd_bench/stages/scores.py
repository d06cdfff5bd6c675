"""What a filter's scores looked like, round by round, small enough for a record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import JsonValue
from torch import Tensor

__all__ = ["ScoreHistory"]


class ScoreHistory:
    """A histogram and the share kept for each call of a filter, neighbors joined where there are many.

    Args:
        low: where the first bin begins; what lies below is counted in it.
        high: where the last bin ends; what lies above is counted in it.
        bins: of equal width.
        most: entries kept. When there are more, each two neighbors become one, and later calls join likewise.
    """

    def __init__(self, low: float = 0.0, high: float = 1.0, bins: int = 20, most: int = 16) -> None:
        self._low, self._high, self._bins, self._most = low, high, bins, most
        self._calls_in_entry = 1
        self._entries: list[dict[str, Any]] = []

    def add(self, scores: Tensor, keep: Tensor) -> None:
        """One call: its scores, float [N], and what was kept, bool [N]."""
        place = ((scores.float() - self._low) / (self._high - self._low) * self._bins).long().clamp(0, self._bins - 1)
        counts = torch.bincount(place, minlength=self._bins).tolist()
        new = {"calls": 1, "seen": len(scores), "kept": int(keep.sum()), "counts": counts}
        if self._entries and self._entries[-1]["calls"] < self._calls_in_entry:
            new = _sum(self._entries.pop(), new)
        self._entries.append(new)
        if len(self._entries) > self._most:
            pairs = [self._entries[at : at + 2] for at in range(0, len(self._entries), 2)]
            self._entries = [_sum(*pair) if len(pair) == 2 else pair[0] for pair in pairs]
            self._calls_in_entry *= 2

    def report(self) -> dict[str, JsonValue]:
        """As plain data: `low`, `high`, and for each entry its calls, images seen and kept, and counts by bin."""
        return {"low": self._low, "high": self._high, "rounds": [dict(entry) for entry in self._entries]}

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume."""
        return {"entries": [dict(entry) for entry in self._entries], "calls_in_entry": self._calls_in_entry}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""
        self._entries, self._calls_in_entry = list(state["entries"]), state["calls_in_entry"]


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    counts = [a + b for a, b in zip(one["counts"], other["counts"], strict=True)]
    return {**{name: one[name] + other[name] for name in ("calls", "seen", "kept")}, "counts": counts}
