"""The presets named `small` spend what they say: operations counted per pass, the schedule by arithmetic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from support.kit import CPU, make_context

from dfkd_bench import SMALL, ImageBank, Network, Round, StageContext, SyntheticBatch
from dfkd_bench.datasets.cards import CIFAR10
from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.models.build import build_model
from dfkd_bench.models.wrn import wrn16_1
from dfkd_bench.planning.grid_file import plan_file
from dfkd_bench.planning.requests import Request, resolve
from dfkd_bench.spec import Pair, RunSpec, TeacherRef
from dfkd_bench.stages.network import frozen

BUDGET = 0.5e15
IMAGES = 10
#: What changes how much is computed, cut down to something that is counted in a moment.
FEW = {"batch_size": IMAGES, "warmup_batch_size": IMAGES, "steps": 1, "loops": 1, "warmup_loops": 1}
REAL = (
    *("deepinversion", "cmi", "dafl", "zskt", "dfad", "dfq", "fast", "csd", "nayer", "dda", "dda-released"),
    *("gapssg", "spaceshipnet", "ta-dfkd", "vit-inversion"),
)
#: A WRN-40-2 is no transformer: one at 32 x 32 that costs about as much.
TRANSFORMER = "timm/vit_tiny_patch16_224?img_size=32&patch_size=4"
NULLS = ("noise", "untrained-generator", "one-image")
"""other-dataset, real-data and scratch need images, and make none."""


def spec_of(method: str, preset: str = "small") -> RunSpec:
    network = TRANSFORMER if method == "vit-inversion" else "wrn40_2"
    pair, teacher = Pair(teacher=network, student="wrn16_1"), TeacherRef(sha256="0" * 64)
    request = Request([method], [pair], "cifar10", teacher, preset)
    # Resolved, not planned: the model of `dda paper` need not be on this machine.
    registry = default_registry()
    return resolve(registry.load("method", method), request, pair, 0, registry)


def context(teacher_name: str = "wrn40_2") -> StageContext:
    body = build_model(teacher_name, CIFAR10, default_registry())
    teacher = Network(body, CIFAR10, torch.float32).eval().requires_grad_(False)
    student = Network(wrn16_1(10), CIFAR10, torch.float32).eval()
    made = make_context(CIFAR10, teacher, student)
    made.ledger.watch(teacher, "teacher")
    made.ledger.watch(student, "student")
    return made


def counted(found: StageContext, phase: str, work: Any) -> float:
    """Operations of `work`, per image that it works on."""
    with found.ledger.phase(phase), frozen(found.student):
        work()
    return found.ledger.phases[phase].flops / IMAGES


def synthesis(spec: RunSpec) -> float:
    """Operations of all rounds and of what a stream hands the student."""
    stage = default_registry().load("synthesizer", spec.synthesizer.name)
    full = spec.synthesizer.options
    few = {**full, **{name: value for name, value in FEW.items() if name in full}}
    if "warmup_steps" in full:
        few["warmup_steps"] = 1
    if "negatives" in full:
        few |= {"negatives": 4, "instance_bank": 64}
    if spec.method == "ta-dfkd":  # how many images are selected, the run decides: as if all were
        few |= {"select": "none"}
    found = context(spec.pair.teacher)
    made = stage(stage.Options(**few), found)
    schedule = spec.schedule
    total = 0.0
    for warmup, rounds in ((True, schedule.warmup_rounds), (False, schedule.epochs * schedule.rounds_per_epoch)):
        per_image = counted(found, f"warmup {warmup}", lambda warmup=warmup: made.synthesize(Round(0, warmup)))
        total += rounds * per_image * images_and_steps(full, warmup)
    if made.stream:
        samples = schedule.epochs * schedule.steps_per_epoch * schedule.batch_size
        total += samples * counted(found, "samples", lambda: made.sample(IMAGES))
    return total


def images_and_steps(options: dict[str, Any], warmup: bool) -> int:
    """Images times steps times loops of a round."""
    if not warmup:
        return int(options["batch_size"] * options.get("steps", 1) * options.get("loops", 1))
    images = options.get("warmup_batch_size", options["batch_size"])
    steps = options.get("warmup_steps") or options.get("steps", 1)
    return int(images * steps * options.get("warmup_loops", 1))


def augmentation(spec: RunSpec) -> float:
    """Operations of the diffusion model's training and of the variants of the warm-up's images."""
    options = spec.augmenter.options
    if spec.augmenter.name == "none":
        return 0.0
    assert spec.augmenter.name == "self-diffusion"
    stage = default_registry().load("augmenter", spec.augmenter.name)
    found = context()
    made = stage(stage.Options(**{**options, "train_steps": 1, "train_batch": IMAGES}), found)
    bank = ImageBank(CIFAR10.image_shape, CPU, torch.Generator().manual_seed(0))
    bank.add(SyntheticBatch(torch.rand(IMAGES, *CIFAR10.image_shape), torch.zeros(IMAGES, dtype=torch.int64)))
    training = counted(found, "training", lambda: made.prepare_fully(bank))
    variants = counted(found, "variants", lambda: made.augment(bank.batch(torch.arange(IMAGES))))
    images = spec.schedule.warmup_rounds * spec.synthesizer.options["batch_size"]
    return float(training * options["train_steps"] * options["train_batch"] + variants * images)


@pytest.mark.parametrize("method", REAL)
def test_half_a_petaflop_within_a_tenth(method: str) -> None:
    spec = spec_of(method)
    assert synthesis(spec) + augmentation(spec) == pytest.approx(BUDGET, rel=0.1)


@pytest.mark.parametrize("method", NULLS)
def test_null_baselines_spend_next_to_nothing(method: str) -> None:
    assert synthesis(spec_of(method)) < BUDGET / 10


@pytest.mark.parametrize("method", [*REAL, *NULLS, "real-data", "scratch"])
def test_one_student_for_all(method: str) -> None:
    schedule = spec_of(method).schedule
    assert {name: getattr(schedule, name) for name in SMALL} == SMALL
    assert schedule.bank_capacity is None


@pytest.mark.parametrize("method", REAL)
def test_only_rounds_images_and_steps_are_cut(method: str) -> None:
    cut = {"batch_size", "warmup_batch_size", "steps", "warmup_steps"}
    small, paper = (spec_of(method, preset).synthesizer.options for preset in ("small", "paper"))
    assert {name for name in small if small[name] != paper[name]} <= cut
    assert all(small[name] <= paper[name] for name in cut & set(small) if small[name] is not None)
    assert small["batch_size"] >= min(128, paper["batch_size"])
    if small["batch_size"] > 128:  # steps are cut only where 128 images do not do
        assert {name: small[name] for name in cut - {"batch_size"} if name in small} == {
            name: paper[name] for name in cut - {"batch_size"} if name in paper
        }


def test_the_campaign_runs_every_method_and_the_first_seed_of_all_before_the_second() -> None:
    registry, cards = default_registry(), {CIFAR10.name: CIFAR10}
    file = Path(__file__).parents[2] / "grids" / "cifar10-small.toml"
    runs = plan_file(file, registry, cards.__getitem__, lambda dataset, network, weights: TeacherRef(sha256="0" * 64))
    # Its teacher is no transformer.
    assert {run.spec.method for run in runs[:20]} == set(registry.provided("method")) - {"vit-inversion"}
    assert [run.spec.seed for run in runs] == [0] * 20 + [1] * 20 + [2] * 20
    assert {run.spec.preset for run in runs} == {"small"}
