"""All runs of `test_fake_gpu` in one process, whose PyTorch is patched: prints what was seen as one line of JSON."""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from device_watch import DeviceWatch
from fake_gpu import GPU, fake_gpu
from fake_runs import make_registry, play, spec_of
from serving import Setting
from steps import Steps

from dfkd_bench.contract.breach import Breach, Skip
from dfkd_bench.contract.checks import checks_of
from dfkd_bench.contract.subject import Subject
from dfkd_bench.contract.world import World
from dfkd_bench.hooks.registry import PluginRow, Registry, StageKind
from support.device_faults import BROKEN, FAULTLESS, SLOW, DeviceFaults

PRECISIONS = {"bf16": torch.bfloat16, "fp32": torch.float32}
KIT: tuple[tuple[StageKind, str, dict[str, Any]], ...] = (
    ("synthesizer", "deepinversion", {"steps": 1, "batch_size": 4, "adv": 1.0}),
    ("augmenter", "classic", {}),
    ("filter", "cosine", {}),
    ("distiller", "kd", {}),
)
#: The others take as many plays as no test has time for, or their way depends on values.
CHECKS = (
    "comes through a run",
    "is stored and made anew",
    "sources and targets are true",
    "answers go with their images",
)


def contract(registry: Registry) -> dict[str, str | None]:
    """The kit's checks of a stage of each kind, by name: what broke that is no verdict on values, which are none."""
    found: dict[str, str | None] = {}
    for kind, name, options in KIT:
        stage = registry.load(kind, name)
        # What it fits, it fits on the CPU, before anything is on the device; its shape depends on values.
        with fake_gpu(DeviceWatch([])), mock.patch.object(World, "_instruct"):
            subject = Subject(name, stage, (stage.Options(**options),), device=GPU)
            for check, function in (*checks_of(stage).items(), ("is stored and made anew", lambda it: it.play(cut=1))):
                if check not in CHECKS:
                    continue
                try:
                    function(subject)
                except (Breach, Skip):
                    found[f"{name}: {check}"] = None
                except Exception:
                    found[f"{name}: {check}"] = traceback.format_exc()
                else:
                    found[f"{name}: {check}"] = None
    return found


def steps() -> dict[str, str | None]:
    """A timed step of `benchmarks/steps.py` and its floor, on the GPU: what broke."""
    found: dict[str, str | None] = {}
    with fake_gpu(DeviceWatch([])):
        made = Steps(Setting(batch=4, precision="bf16", steps=1), GPU)
        for name in ("deepinversion floor", "distillation", "distillation floor"):
            try:
                made.seconds(name)
            except Exception:
                found[name] = traceback.format_exc()
            else:
                found[name] = None
    return found


def main() -> None:
    """`methods`, or `faults` and the contract kit's."""
    warnings.simplefilter("ignore")
    registry = make_registry()
    methods = list(registry.provided("method"))
    precisions = PRECISIONS
    if sys.argv[1] == "faults":
        registry.add(DeviceFaults(), PluginRow("faults", "faults", "0"))
        methods = [FAULTLESS, *(stage.__name__ for stage in (*BROKEN, *SLOW))]
        precisions = {"fp32": torch.float32}
    folder, found = Path(__file__).parent, dict[str, Any]()
    if sys.argv[1] == "faults":
        found["contract"], found["steps"] = contract(registry), steps()
    for method in methods:
        for name, precision in precisions.items():
            run = play(spec_of(method, registry), registry, precision, [folder])
            kinds = sorted({step.kind for step in run.watch.steps})
            half = run.watch.half_convolutions
            found[f"{method} {name}"] = {"error": run.error, "kinds": kinds, "seen": run.in_steps(), "half": half}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
