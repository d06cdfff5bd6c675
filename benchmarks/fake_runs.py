"""Runs on a GPU that is not there: every stage through the real loop, its state sent to the CPU and back.

    python benchmarks/fake_runs.py [--method NAME ...] [--precision bf16 fp32]

prints for each method what its steps wait for and copy, by file and line. Nothing is computed: see `fake_gpu`.
"""

from __future__ import annotations

import argparse
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from device_watch import DeviceWatch
from fake_gpu import GPU, fake_gpu
from torch import Tensor, nn

import dfkd_baselines
import dfkd_bench
import dfkd_dda
from dfkd_bench import evaluation
from dfkd_bench.datasets.cards import CIFAR10
from dfkd_bench.datasets.split import Split
from dfkd_bench.environment import Execution
from dfkd_bench.hooks.registry import STAGE_KINDS, PluginRow, Registry
from dfkd_bench.hooks.specs import hookimpl
from dfkd_bench.models.build import build_model
from dfkd_bench.planning.requests import Override, Request, resolve
from dfkd_bench.runs import loop
from dfkd_bench.spec import Pair, RunSpec, TeacherRef
from dfkd_bench.stages.ledger import CostLedger
from dfkd_bench.teachers.store import Teacher, TeacherCard

__all__ = ["Play", "make_registry", "play", "spec_of"]

#: Datasets that are there without a download: CIFAR-10's card, and no images worth the name.
OWN, OTHER = (CIFAR10.model_copy(update={"name": name}) for name in ("fake-own", "fake-other"))
PACKAGES = [Path(package.__file__).parent for package in (dfkd_bench, dfkd_baselines, dfkd_dda)]  # type: ignore[arg-type]
#: Enough for whole steps between the first and the last.
STEPS = 3
SCHEDULE = {"warmup_rounds": 1, "epochs": 1, "rounds_per_epoch": 1, "steps_per_epoch": STEPS, "batch_size": 8}
OPTIONS = {
    "batch_size": 12,
    "warmup_batch_size": 12,
    "steps": STEPS,
    "warmup_steps": STEPS,
    "loops": 1,
    "warmup_loops": 1,
    "train_steps": STEPS,
    "train_batch": 8,
    "negatives": 8,
    "dataset": OTHER.name,
}


class Tiny(nn.Module):
    """Two stages with a BatchNorm layer each, for questions whose answer does not depend on the network."""

    stages = ("first", "second")

    def __init__(self, num_classes: int, in_channels: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(in_channels, 8, 3, 1, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.head = nn.Linear(8, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.head(self.second(self.first(images)).mean(dim=(2, 3)))
        return logits


class _MadeUp:
    @hookimpl
    def dfkd_models(self, register: Callable[..., None]) -> None:
        """The tiny one."""
        register("tiny", Tiny)

    @hookimpl
    def dfkd_datasets(self, register: Callable[..., None]) -> None:
        """Two that are empty of meaning."""
        for card in (OWN, OTHER):
            register(card, _load)


def _load(split: str, root: Path | None) -> Split:
    images = torch.zeros((20, *OWN.image_shape), dtype=torch.uint8)
    return Split(images, torch.arange(20) % OWN.num_classes, "none")


def make_registry() -> Registry:
    """All that is installed, a tiny network and two datasets."""
    registry = Registry()
    registry.add(_MadeUp(), PluginRow("fake", "fake", "0"))
    return registry


def spec_of(
    method: str,
    registry: Registry,
    *,
    pair: str = "tiny:tiny",
    preset: str = "quick",
    schedule: Mapping[str, Any] = SCHEDULE,
    options: Mapping[str, Any] = OPTIONS,
) -> RunSpec:
    """A method's run with these fields of the schedule, and these options in whichever of its stages has them."""
    recipe = registry.load("method", method)
    ref = TeacherRef(sha256="0" * 64)
    request = Request([method], [Pair.parse(pair)], OWN.name, ref, preset)
    overrides = [Override("schedule", name, value) for name, value in schedule.items()]
    plain = resolve(recipe, Request(**{**vars(request), "overrides": overrides}), request.pairs[0], 0, registry)
    for kind in STAGE_KINDS:
        # An option that says "as the other" stays silent.
        named = {name: value for name, value in getattr(plain, kind).options.items() if value is not None}
        overrides += [Override(kind, name, value) for name, value in options.items() if name in named]
    return resolve(recipe, Request(**{**vars(request), "overrides": overrides}), request.pairs[0], 0, registry)


@dataclass
class Play:
    """What was seen of a run.

    Attributes:
        spec: the run.
        watch: all that was seen.
        error: where it broke, as a traceback; None if it did not.
    """

    spec: RunSpec
    watch: DeviceWatch
    error: str | None = None

    def in_steps(self) -> list[str]:
        """What stands in steps: waits and copies, each once, by file and line."""
        return sorted({f"{step.kind}: {seen}" for step in self.watch.steps for seen in step.seen})


class _Split:
    """In the place of a split on the disk, into whose file fake tensors cannot go."""

    def __init__(self, split: Split) -> None:
        self.fingerprint, self._split = split.fingerprint, split

    def __len__(self) -> int:
        return len(self._split)

    @contextmanager
    def opened(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Images and labels."""
        yield self._split.images, self._split.labels


class _Ledger(CostLedger):
    """Tells the watch which phase it is, and when a diffusion model is asked."""

    watch_device: DeviceWatch

    @contextmanager
    def phase(self, name: str) -> Iterator[Any]:
        """As the ledger's."""
        with super().phase(name) as cost:
            self.watch_device.enter_phase(name)
            try:
                yield cost
            finally:
                self.watch_device.enter_phase(None)

    def watch(self, module: nn.Module, role: str) -> Any:
        """As the ledger's."""
        if role == "diffusion":
            module.register_forward_pre_hook(lambda _, __: self._asked())
        return super().watch(module, role)

    def _asked(self) -> None:
        if self.watch_device.phase == "augmentation" and not torch.is_grad_enabled():
            self.watch_device.step("augmentation, denoising")


class _Travel:
    """In a checkpoint's place: what it would write goes to the CPU, and the run goes on from it."""

    def restore(self, run: loop.Run) -> None:
        """There is none at the start."""

    def save_if_due(self, run: loop.Run) -> None:
        """After each segment."""
        run.load_state_dict(_to_cpu(run.state_dict()))


def _to_cpu(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.cpu()
    if isinstance(state, dict):
        return {name: _to_cpu(value) for name, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_to_cpu(value) for value in state)
    return state


def play(spec: RunSpec, registry: Registry, precision: torch.dtype, folders: Sequence[Path] = ()) -> Play:
    """One run on the fake GPU; an error ends it and is told."""
    watch = DeviceWatch([*PACKAGES, *folders])
    found = Play(spec, watch)

    def emit(kind: str, data: Mapping[str, Any]) -> None:
        if kind == "progress" and data["phase"] == "distillation":
            watch.step("distillation")

    ledger = type("_WatchedLedger", (_Ledger,), {"watch_device": watch})
    with (
        fake_gpu(watch),
        mock.patch.object(loop, "CostLedger", ledger),
        mock.patch.object(evaluation, "StoredSplit", _Split),
        mock.patch.object(loop, "weights_hash", lambda state: ""),
        mock.patch.object(loop, "teacher_answers", lambda _, network, evaluator, __: evaluator.reference(network)),
    ):
        remarks: list[str] = []
        try:
            run = loop.Run(
                spec,
                _teacher(spec, registry),
                registry,
                Execution(GPU, precision),
                emit,  # type: ignore[arg-type]
                SimpleNamespace(note=lambda **_: None, write=lambda: None, remark=remarks.append),  # type: ignore[arg-type]
            )
            run.to_the_end(_Travel())  # type: ignore[arg-type]
        except Exception:
            found.error = traceback.format_exc()
    return found


def _teacher(spec: RunSpec, registry: Registry) -> Teacher:
    body = build_model(spec.pair.teacher, OWN, registry).eval().to(GPU)
    card = TeacherCard.model_construct(
        model=spec.pair.teacher,
        mean=OWN.mean,
        std=OWN.std,
        num_classes=OWN.num_classes,
        sha256="0" * 64,
        accuracy=0.0,
        source="none",
        made=datetime.now(UTC),
    )
    return Teacher(card, body, Path("no-folder"), "0" * 64)


def main() -> None:
    """Print what each method's steps wait for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    registry = make_registry()
    parser.add_argument("--method", nargs="*", default=list(registry.provided("method")))
    parser.add_argument("--precision", nargs="*", default=["bf16", "fp32"], choices=["bf16", "fp32"])
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    for method in asked.method:
        for precision in asked.precision:
            dtype = torch.bfloat16 if precision == "bf16" else torch.float32
            found = play(spec_of(method, registry), registry, dtype)
            kinds = sorted({step.kind for step in found.watch.steps})
            print(f"{method} {precision}: {found.watch.total.launches} launches, steps of {', '.join(kinds)}")
            for line in found.in_steps():
                print(f"  {line}")
            if found.error:
                print(found.error)


if __name__ == "__main__":
    main()
