"""What a step asks of a GPU, counted on one that is not there: launches, bytes, waits and copies.

    python benchmarks/gpu_counts.py counts.json              # count whichever dfkd_bench is first on the path
    python benchmarks/gpu_counts.py --table before.json after.json

counts a whole inner step of each method's synthesis and a whole step of its student in bf16, with CIFAR-10's shapes, a
WRN-40-2 teacher, a WRN-16-1 student and the `paper` presets' batches. A launch is an operation that starts a kernel,
bytes are those of its inputs and outputs: both say nothing of seconds, and a library may take more kernels than one.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import torch
from fake_runs import make_registry, play, spec_of

METHODS = {
    "deepinversion": "paper",
    "cmi": "paper",
    "fast": "paper",
    "nayer": "paper",
    "csd": "paper",
    "dfq": "paper",
    "dda": "quick",
}
# Three steps: two whole ones between their ends. The last is counted, since in the first an optimizer makes its state.
SCHEDULE = {"warmup_rounds": 0, "epochs": 1, "rounds_per_epoch": 1, "steps_per_epoch": 3}
OPTIONS = {"steps": 3, "warmup_steps": 3, "loops": 1, "train_steps": 3, "strength": 1.0}


def count(methods: list[str]) -> dict[str, dict[str, Any]]:
    """By method and kind of step."""
    registry, found = make_registry(), dict[str, dict[str, Any]]()
    for method in methods:
        preset = METHODS[method]
        spec = spec_of(method, registry, pair="wrn40_2:wrn16_1", preset=preset, schedule=SCHEDULE, options=OPTIONS)
        run = play(spec, registry, torch.bfloat16)
        if run.error:
            raise RuntimeError(f"{method}: {run.error}")
        for step in run.watch.steps:
            found.setdefault(method, {})[step.kind] = {
                "launches": step.launches,
                "bytes": step.read_and_written,
                "waits": sum(times for seen, times in step.seen.items() if seen.kind != "upload"),
                "uploads": sum(times for seen, times in step.seen.items() if seen.kind == "upload"),
            }
    return found


def table(before: dict[str, Any], after: dict[str, Any]) -> str:
    """Markdown: a row for each method and kind of step."""
    lines = [
        "| method | step | launches | GB read and written | waits | copies to the device |",
        "|---|---|---|---|---|---|",
    ]
    for method, kinds in after.items():
        for kind, now in kinds.items():
            then = before[method][kind]
            size = _change(f"{then['bytes'] / 1e9:.2f}", f"{now['bytes'] / 1e9:.2f}")
            cells = [_change(str(then[name]), str(now[name])) for name in ("launches", "waits", "uploads")]
            lines.append(f"| {method} | {kind} | {cells[0]} | {size} | {cells[1]} | {cells[2]} |")
    return "\n".join(lines)


def _change(then: str, now: str) -> str:
    return now if then == now else f"{then} → {now}"


def main() -> None:
    """Count, or print the table of two counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--methods", nargs="*", default=list(METHODS), choices=list(METHODS))
    asked = parser.parse_args()
    if asked.table:
        before, after = (json.loads(path.read_text(encoding="utf-8")) for path in asked.files)
        print(table(before, after))
        return
    warnings.simplefilter("ignore")
    asked.files[0].write_text(json.dumps(count(asked.methods), indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
