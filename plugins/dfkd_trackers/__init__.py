"""Trackers: run events as files that other programs read. Off unless `--tracker` names them. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfkd_bench import hookimpl


@hookimpl
def dfkd_trackers(register: Callable[[str, Any], None]) -> None:
    """TensorBoard, and a line of JSON for each event."""
    register("tensorboard", "dfkd_trackers.tensorboard:TensorBoard")
    register("jsonl", "dfkd_trackers.json_lines:JsonLines")
