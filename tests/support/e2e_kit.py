"""What the end-to-end tests share: tiny settings, one tiny teacher, plugins made on the spot, the command line."""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from dfkd_bench import hookimpl
from dfkd_bench.card import DatasetCard
from dfkd_bench.cli import main
from dfkd_bench.hooks.registry import STAGE_KINDS, PluginRow, Registry, default_registry
from dfkd_bench.planning.requests import Override, Request, plan
from dfkd_bench.results.records import Accuracy, BankReport, CurvePoint, Environment, Record, TeacherReport
from dfkd_bench.spec import Pair, RunSpec, TeacherRecipe, TeacherRef
from dfkd_bench.workbench import Workbench

__all__ = [
    "ATTENTIVE",
    "PAIR",
    "RECIPE",
    "SCHEDULE",
    "Outcome",
    "Stages",
    "bench",
    "cli",
    "listening",
    "make_record",
    "make_spec",
    "own_cache",
    "program",
    "registry_with",
    "small_recipe",
    "specs",
    "teacher_file",
    "teachers_folder",
    "tiny",
    "write_distribution",
]

PAIR = "resnet8:resnet8"
#: With a transformer as teacher, for digits.
ATTENTIVE = "timm/vit_tiny_patch16_224?depth=1&embed_dim=24&img_size=16&num_heads=3&patch_size=4:resnet8"
RECIPE = TeacherRecipe(epochs=2, batch_size=32, warmup_epochs=1)
SCHEDULE = ("schedule.epochs=2", "schedule.steps_per_epoch=3", "schedule.warmup_rounds=1", "schedule.batch_size=8")
_SMALL = {
    "batch_size": "8",
    "steps": "2",
    "latent_dim": "16",
    "head_dim": "8",
    "negatives": "8",
    "warmup_batch_size": "8",
    "warmup_steps": "2",
    "loops": "1",
    "warmup_loops": "1",
    "embedding_dim": "16",
    "width": "16",
    "preview": "8",
    "train_steps": "2",
    "train_batch": "8",
    "channels": "[8, 8]",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache is a folder of this test; import it into a test module, and every test there has it."""
    cache = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    return cache


@pytest.fixture
def small_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no recipe is asked for, the command line trains by RECIPE."""
    real = Workbench.card

    def card(self: Workbench, dataset: str) -> DatasetCard:
        return real(self, dataset).model_copy(update={"teacher_recipe": RECIPE})

    monkeypatch.setattr(Workbench, "card", card)


@functools.cache
def teacher_file() -> Path:
    """The weights of a tiny teacher, resnet8 on digits by RECIPE; trained once in this process."""
    folder = Path(tempfile.mkdtemp(prefix="dfkd-teachers-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    made = Workbench.make(teachers=folder, device="cpu", precision="fp32", registry=Registry())
    made.store.train("resnet8", "digits", RECIPE)
    (weights,) = folder.glob("*/weights.safetensors")
    return weights


def teachers_folder() -> Path:
    """The folder of that teacher, to which tests may add others."""
    return teacher_file().parent.parent


def bench(results: Path, registry: Registry | None = None, device: Any = "cpu") -> Workbench:
    """A workbench in float32 that knows the tiny teacher."""
    return Workbench.make(
        results=results, teachers=teachers_folder(), device=device, precision="fp32", registry=registry or Registry()
    )


def tiny(method: str, registry: Registry, swaps: dict[Any, str] | None = None) -> list[str]:
    """Overrides, for this method alone, that make a run of a second out of its quick preset."""
    recipe = registry.load("method", method)
    chosen = [f"{method}:{text}" for text in SCHEDULE]
    quick = [preset.schedule for preset in recipe.presets if preset.matches("quick", "digits", PAIR)]
    if any(schedule.get("rounds_per_epoch", 1) > 1 for schedule in (recipe.schedule, *quick)):
        chosen.append(f"{method}:schedule.rounds_per_epoch=2")
    for kind in STAGE_KINDS:
        name = (swaps or {}).get(kind, getattr(recipe, kind).name)
        options = registry.load(kind, name).Options.model_fields
        chosen += [f"{method}:{kind}.{option}={value}" for option, value in _SMALL.items() if option in options]
    return chosen


def specs(
    workbench: Workbench,
    method: str,
    *overrides: str,
    pair: str = PAIR,
    seeds: tuple[int, ...] = (0,),
    swaps: dict[Any, str] | None = None,
    dataset: str = "digits",
) -> list[RunSpec]:
    """Tiny specs of the tiny teacher."""
    request = Request(
        methods=[method],
        pairs=[Pair.parse(pair)],
        dataset=dataset,
        teacher=TeacherRef(recipe=RECIPE),
        seeds=seeds,
        swaps=swaps or {},
        overrides=[Override.parse(text) for text in (*tiny(method, workbench.registry, swaps), *overrides)],
    )
    return plan(request, workbench.card(dataset), workbench.registry)


class Stages:
    """A plugin of stages, networks, datasets and methods given as they are."""

    def __init__(self, **provided: Any) -> None:
        self.provided = provided

    def _hand(self, kind: str, register: Any) -> None:
        for name, target in self.provided.get(kind, {}).items():
            register(name, target)

    @hookimpl
    def dfkd_synthesizers(self, register: Any) -> None:
        self._hand("synthesizer", register)

    @hookimpl
    def dfkd_augmenters(self, register: Any) -> None:
        self._hand("augmenter", register)

    @hookimpl
    def dfkd_filters(self, register: Any) -> None:
        self._hand("filter", register)

    @hookimpl
    def dfkd_distillers(self, register: Any) -> None:
        self._hand("distiller", register)

    @hookimpl
    def dfkd_models(self, register: Any) -> None:
        self._hand("model", register)

    @hookimpl
    def dfkd_datasets(self, register: Any) -> None:
        for card, load in self.provided.get("dataset", ()):
            register(card, load)

    @hookimpl
    def dfkd_methods(self, register: Any) -> None:
        for method in self.provided.get("method", ()):
            register(method)


def registry_with(*points: EntryPoint, **provided: Any) -> Registry:
    """Everything installed, further entry points, and stages given as they are."""
    registry = Registry([*entry_points(group="dfkd_bench"), *points])
    if provided:
        registry.add(Stages(**provided), PluginRow("strange", "strange", "1"))
    return registry


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The one sentence of a user's mistake."""
        assert self.code == 2, self
        assert self.err.startswith("dfkd-bench: "), self
        assert self.err.endswith("\n"), self
        assert self.err.count("\n") == 1, self
        return self.err.removeprefix("dfkd-bench: ").strip()


def cli(*args: str | Path) -> Outcome:
    """`dfkd-bench ARGS` in this process. What it does not catch comes through."""
    out, err = io.StringIO(), io.StringIO()
    code: Any = 0
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch.object(sys, "argv", ["dfkd-bench", *map(str, args)]),
    ):
        try:
            main()
        except SystemExit as error:
            code = error.code
    return Outcome(code or 0, out.getvalue(), err.getvalue())


def sets(*methods: str) -> list[str]:
    """Options of `run` that make methods tiny."""
    return [part for method in methods for text in tiny(method, default_registry()) for part in ("--set", text)]


def run_here(tmp_path: Path, *args: str | Path, methods: tuple[str, ...] = ("noise",)) -> Outcome:
    """`run` on the CPU with tiny settings into a results folder."""
    chosen = [part for method in methods for part in ("--method", method)]
    places = ("--results", tmp_path / "results", "--teachers", teachers_folder())
    return cli("run", *chosen, *args, *sets(*methods), *places, "--device", "cpu", "--precision", "fp32")


def program(*args: str | Path, path: Path | None = None, code: str | None = None, timeout: float = 120) -> Outcome:
    """`dfkd-bench ARGS` (or the Python `code`) in a process of its own; `path` goes before its import path."""
    before = [] if path is None else [str(path)]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([*before, *filter(None, [os.environ.get("PYTHONPATH")])]),
        "NO_COLOR": "1",
    }
    command = [sys.executable, "-c", code or "from dfkd_bench.cli import main; main()", *map(str, args)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment, check=False, stdin=subprocess.DEVNULL
    )
    return Outcome(done.returncode, done.stdout, done.stderr)


def write_distribution(folder: Path, name: str, version: str, modules: dict[str, str], points: dict[str, str]) -> None:
    """An installed package as a package manager leaves it: modules and a `dist-info` with entry points."""
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = [f"{point} = {target}" for point, target in points.items()]
    (info / "entry_points.txt").write_text("\n".join(["[dfkd_bench]", *lines, ""]), encoding="utf-8")
    for module, source in modules.items():
        (folder / f"{module}.py").write_text(source, encoding="utf-8")


def make_spec(**changes: Any) -> RunSpec:
    """A spec spelled out by hand."""
    plain: dict[str, Any] = {
        "method": "noise",
        "synthesizer": {"name": "noise", "options": {"batch_size": 8}},
        "augmenter": {"name": "none", "options": {}},
        "filter": {"name": "all", "options": {}},
        "distiller": {"name": "kd", "options": {"tau": 20.0, "target_weight": 0.0}},
        "schedule": {"epochs": 2, "steps_per_epoch": 3, "batch_size": 8, "lr": 0.1},
        "dataset": "digits",
        "pair": {"teacher": "resnet8", "student": "resnet8"},
        "teacher": {"sha256": "a" * 64},
        "seed": 0,
        "preset": "quick",
    }
    return RunSpec.model_validate({**plain, **changes})


def make_record(
    spec: RunSpec | None = None, accuracy: float | None = 50.0, *, sha256: str = "a" * 64, **changes: Any
) -> Record:
    """A record made by hand; without an accuracy it is that of a failed run."""
    spec = spec or make_spec()
    outcome: dict[str, Any] = {"status": "failed", "reason": "RuntimeError: on purpose"}
    if accuracy is not None:
        last = Accuracy(last=accuracy, last_top5=99.0, oracle_best=accuracy + 1, oracle_epoch=1, agreement=60.0)
        point = CurvePoint(
            epoch=1, steps=3, lr=0.1, losses={"kd": 1.5}, accuracy=accuracy, accuracy_top5=99.0, agreement=60.0
        )
        outcome = {"status": "finished", "accuracy": last, "curve": (point,)}
    phase = {"seconds": 2.0, "images": 8, "forward": {"teacher": 8}, "backward": {}, "flops": 10**12}
    fields: dict[str, Any] = {
        "run": spec.hash,
        "spec": spec,
        **outcome,
        "priors": dict.fromkeys(STAGE_KINDS, "none"),
        "teacher": TeacherReport(model=spec.pair.teacher, sha256=sha256, accuracy=90.0, source="made by hand"),
        "student_parameters": 1000,
        "test_split": "b" * 64,
        "bank": BankReport(synthesized=16, augmented=10, kept=5, in_bank=21, target_agreement=80.0),
        "cost": {"synthesis": {**phase, "peak_memory": 2**30}, "distillation": {**phase, "peak_memory": 2**31}},
        "environment": Environment(
            device="cpu",
            hardware="a processor",
            precision="fp32",
            threads=1,
            platform="somewhere",
            versions={"torch": "2"},
            plugins={"dfkd-bench": "0"},
        ),
        "started": datetime(2026, 1, 1, tzinfo=UTC),
        "finished": datetime(2026, 1, 2, tzinfo=UTC),
    }
    fields |= changes
    curve = fields.pop("curve", ())
    return Record(**{"last_good_epoch": curve[-1].epoch if curve else 0, **fields}).with_curve(curve)


@contextlib.contextmanager
def listening(registry: Registry, heard: Any) -> Iterator[None]:
    """Call `heard(event)` for each run event inside."""

    class Listener:
        @hookimpl
        def dfkd_run_event(self, event: Any) -> None:
            heard(event)

    listener = Listener()
    registry.listen(listener)
    try:
        yield
    finally:
        registry.unlisten(listener)


class Interrupts:
    """Breaks a run, or a teacher's training, off after so many progress events."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, event) -> None:
        if event.kind == "progress":
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
