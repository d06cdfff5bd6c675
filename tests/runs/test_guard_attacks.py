"""Ways to the test images that Python leaves open: each finds nothing, or ends as a failed row that says so."""

from __future__ import annotations

import contextlib
import gc
import inspect
import sys
import threading
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import Field
from support.e2e_kit import bench, own_cache, registry_with, specs  # noqa: F401
from support.faulty_stages import gray
from torch import Tensor, nn

from dfkd_bench import StageOptions, Synthesizer
from dfkd_bench.datasets import digits
from dfkd_bench.datasets.split import Split
from dfkd_bench.evaluation import Evaluator
from dfkd_bench.runs.loop import Run
from dfkd_bench.runs.runner import run_spec

FOUND: list[Any] = []
HOLDERS = (Tensor, nn.Parameter, np.ndarray, np.memmap, Split)
#: What earlier tests of this process left in memory, by id; kept alive, so that no id is given again.
LEFT: dict[int, Any] = {}
SENTENCE = "method 'noise' tried to open a dataset: a method gets the teacher and the dataset card, never an image"


class Known:
    """The test images' bytes, in no tensor."""

    def __init__(self) -> None:
        self.images = frozenset(image.numpy().tobytes() for image in digits.load("test").images)

    def shows(self, thing: Any) -> bool:
        if isinstance(thing, Split):
            return True
        if isinstance(thing, np.ndarray) and thing.dtype.kind in "uif":
            thing = torch.from_numpy(np.array(thing))
        if not isinstance(thing, Tensor) or thing.is_complex() or not thing.numel() or thing.numel() % 256:
            return False
        images = thing.detach().reshape(-1, 256)
        images = (images.double() * 255).round().clamp(0, 255) if images.is_floating_point() else images
        return any(image.numpy().tobytes() in self.images for image in images.to(torch.uint8))


def in_a_thread(context, known):
    def work():
        with contextlib.suppress(Exception):
            FOUND.append(digits.load("test"))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()


def caught(context, known):
    with contextlib.suppress(Exception):
        FOUND.append(digits.load("test"))


def alive(*types):
    # By its very type: asking some objects for their class warns.
    return [thing for thing in gc.get_objects() if type(thing) in types]


def through_gc(context, known):
    things = (thing for thing in alive(*HOLDERS) if id(thing) not in LEFT)
    FOUND.extend(thing for thing in things if known.shows(thing))


def through_frames(context, known):
    frames = [info.frame for info in inspect.stack(0)] + list(sys._current_frames().values())
    for frame in frames:
        for value in list(frame.f_locals.values()):
            held = [value, *getattr(value, "__dict__", {}).values()]
            FOUND.extend(thing for thing in held if known.shows(thing))


def the_evaluator(context, known):
    for run in alive(Run):
        with run._evaluator._stored.opened() as (images, _):
            FOUND.append(images.clone())


def asking_the_evaluator(context, known):
    def hook(_, inputs):
        FOUND.extend(thing for thing in inputs if known.shows(thing))

    context.student.body.register_forward_pre_hook(hook)
    for evaluator in alive(Evaluator):
        with contextlib.suppress(Exception):
            evaluator.measure(context.student)


def a_hook_on_the_student(context, known):
    def hook(_, inputs):
        FOUND.extend(thing for thing in inputs if known.shows(thing))

    context.student.body.register_forward_pre_hook(hook)


FAILS = {
    "a thread": in_a_thread,
    "an exception that is caught": caught,
    "the evaluator's own door": the_evaluator,
    "the evaluator is asked": asking_the_evaluator,
}
FINDS_NOTHING = {"gc": through_gc, "frames": through_frames, "a hook": a_hook_on_the_student}


class AttackOptions(StageOptions):
    attack: str = Field("none", description="which")


class Attacker(Synthesizer[AttackOptions]):
    Options = AttackOptions

    def attack(self):
        attack = {**FAILS, **FINDS_NOTHING}.get(self.options.attack)
        if attack is not None:
            attack(self.context, self.known)

    def __init__(self, options, context):
        super().__init__(options, context)
        self.known = KNOWN[0]
        self.attack()

    def synthesize(self, round):
        self.attack()
        return gray(self.context)

    def after_distill_step(self, batch):
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps % 3 == 1:  # once in each epoch
            self.attack()


KNOWN: list[Known] = []


@pytest.fixture(scope="module", autouse=True)
def known():
    KNOWN[:] = [Known()]
    yield KNOWN[0]
    KNOWN.clear()


@pytest.fixture(autouse=True)
def left():
    gc.collect()
    LEFT.update((id(thing), thing) for thing in alive(*HOLDERS))
    yield
    LEFT.clear()


def attacked(tmp_path, attack, *overrides):
    FOUND.clear()
    workbench = bench(tmp_path / "results", registry_with(synthesizer={"attacker": Attacker}))
    chosen = f"synthesizer.attack={attack}"
    (spec,) = specs(workbench, "noise", chosen, *overrides, swaps={"synthesizer": "attacker"})
    return run_spec(spec, workbench.results, workbench.store)


@pytest.mark.parametrize("attack", FAILS)
def test_an_attempt_is_a_failed_row_that_says_so(tmp_path, attack):
    record = attacked(tmp_path, attack)
    assert (record.status, FOUND) == ("failed", [])
    assert record.reason.startswith(SENTENCE)


@pytest.mark.parametrize("attack", FINDS_NOTHING)
def test_while_a_stage_is_at_work_there_is_no_test_image_in_memory(tmp_path, attack):
    record = attacked(tmp_path, attack)
    assert record.status == "finished", record.reason
    assert FOUND == []


def test_the_attacks_would_find_what_is_there(known):
    FOUND.clear()
    split = digits.load("test")
    through_gc(None, known)
    through_frames(None, known)
    assert any(thing is split for thing in FOUND)
    assert len(FOUND) > 1
