"""Each event as a line of JSON: `events.jsonl` in the run's folder."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from dfkd_bench import Record, RunEvent
from dfkd_bench.results.scan import RUN_FOLDER

__all__ = ["JsonLines"]

_SECONDS = 1.0


class JsonLines:
    """Appends to each run's file: a run that is interrupted and resumed has one file, with two `started`.

    Steps of a phase come no more often than once a second, the last one always.

    Args:
        results: the results folder.
    """

    def __init__(self, results: Path) -> None:
        self._results = results
        self._files: dict[str, IO[str]] = {}
        self._progressed: dict[str, float] = {}

    def hear(self, event: RunEvent) -> None:
        """Write the event; those of a teacher's training, and of runs that another process does, have no file."""
        begins, ends = event.kind == "started", event.kind in ("finished", "failed")
        if event.run not in self._files:
            # Some engines say of a run on another machine only how it ended.
            if not (begins or ends) or not RUN_FOLDER.fullmatch(event.run):
                return
            path = self._results / event.run / "events.jsonl"
            self._files[event.run] = path.open("a", encoding="utf-8", buffering=1)
        if event.kind == "progress" and not self._due(event):
            return
        line = {
            "time": datetime.now(UTC).isoformat(),
            "event": event.kind,
            "run": event.run,
            "title": event.title,
            **{name: _plain(value) for name, value in event.data.items()},
        }
        self._files[event.run].write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
        if ends:
            self._files.pop(event.run).close()

    def _due(self, event: RunEvent) -> bool:
        now = time.monotonic()
        if event.data["done"] != event.data["total"] and now - self._progressed.get(event.run, -1e9) < _SECONDS:
            return False
        self._progressed[event.run] = now
        return True

    def close(self) -> None:
        """Close the files of runs that did not end."""
        while self._files:
            self._files.popitem()[1].close()


def _plain(value: Any) -> Any:
    """What the record says in short, since it lies beside the file; anything else as it is."""
    if isinstance(value, Record):
        return value.model_dump(mode="json", include={"status", "accuracy", "bank", "cost", "last_good_epoch"})
    return value
