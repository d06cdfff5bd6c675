"""All runs of `test_fake_gpu` in one process, whose PyTorch is patched: prints what was seen as one line of JSON."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from fake_runs import OPTIONS, SCHEDULE, make_registry, play, spec_of

from dfkd_bench.hooks.registry import PluginRow, Registry
from dfkd_bench.stages.graphs import WARM_UP
from support.device_faults import BROKEN, FAULTLESS, SLOW, DeviceFaults

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}


#: An image bank and its generator, and images for each of the student's steps. Whole rounds of more than a warm-up.
CAPTURED = ("fast",)


def _captured(method: str, registry: Registry) -> dict[str, Any]:
    schedule = {**SCHEDULE, "steps_per_epoch": WARM_UP + 2}
    spec = spec_of(method, registry, schedule=schedule, options={**OPTIONS, "steps": WARM_UP + 2})
    run = play(spec, registry, torch.bfloat16, graphs=True)
    return {"error": run.error, "captures": run.captures, "remarks": run.remarks, "seen": run.in_steps()}


def main() -> None:
    """`methods`, `graphs`, or `faults`."""
    warnings.simplefilter("ignore")
    registry = make_registry()
    methods = list(registry.provided("method"))
    precisions = PRECISIONS
    if sys.argv[1] == "faults":
        registry.add(DeviceFaults(), PluginRow("faults", "faults", "0"))
        methods = [FAULTLESS, *(stage.__name__ for stage in (*BROKEN, *SLOW))]
        precisions = {"fp32": torch.float32}
    if sys.argv[1] == "graphs":
        print(json.dumps({method: _captured(method, registry) for method in CAPTURED}))
        return
    folder, found = Path(__file__).parent, dict[str, Any]()
    for method in methods:
        for name, precision in precisions.items():
            run = play(spec_of(method, registry), registry, precision, [folder])
            kinds = sorted({step.kind for step in run.watch.steps})
            half = run.watch.half_convolutions
            found[f"{method} {name}"] = {"error": run.error, "kinds": kinds, "seen": run.in_steps(), "half": half}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
