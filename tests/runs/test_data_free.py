"""A method gets the teacher and a dataset card, never an image."""

from __future__ import annotations

import collections
import contextlib
import functools
import types
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import Field
from support.e2e_kit import bench, own_cache, registry_with, specs  # noqa: F401
from torch import Tensor

from dfkd_bench import Augmenter, DatasetCard, Distiller, Filter, StageOptions, Synthesizer, SyntheticBatch
from dfkd_bench.datasets import digits
from dfkd_bench.datasets.access import open_dataset
from dfkd_bench.datasets.cards import DIGITS
from dfkd_bench.datasets.folder import open_folder
from dfkd_bench.datasets.guard import sealed
from dfkd_bench.datasets.split import Split
from dfkd_bench.errors import DataFreeViolationError
from dfkd_bench.evaluation import Evaluator
from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.runs.runner import run_spec

WAYS = {
    "by name, test": lambda folder: open_dataset("digits", default_registry()).load("test"),
    "by name, train": lambda folder: open_dataset("digits", default_registry()).load("train"),
    "by the registry": lambda folder: default_registry().load("dataset", "digits")("test", None),
    "by its module": lambda folder: digits.load("test"),
    "another dataset": lambda folder: default_registry().load("dataset", "cifar10")("train", None),
    "a folder": lambda folder: open_folder(folder)[1]("test", None),
    "a folder by name": lambda folder: open_dataset(f"folder:{folder}", default_registry()).load("test"),
}
MOMENTS = ("made", "synthesize", "after", "prepare", "augment", "keep", "losses")


class ThiefOptions(StageOptions):
    way: str = Field("none", description="how it opens a dataset")
    moment: str = Field("none", description="when")
    folder: str = Field("", description="where one is")


class _Thief:
    def steal(self, moment: str) -> None:
        if moment == self.options.moment:
            WAYS[self.options.way](self.options.folder)


class SynthesizerThief(_Thief, Synthesizer[ThiefOptions]):
    Options = ThiefOptions

    def __init__(self, options, context):
        super().__init__(options, context)
        self.steal("made")

    def synthesize(self, round):
        self.steal("synthesize")
        return gray(self.context)

    def after_distill_step(self, batch):
        self.steal("after")


class AugmenterThief(_Thief, Augmenter[ThiefOptions]):
    Options = ThiefOptions

    def prepare(self, bank):
        self.steal("prepare")

    def augment(self, batch):
        self.steal("augment")
        return SyntheticBatch(batch.images, batch.targets, torch.arange(len(batch)))


class FilterThief(_Thief, Filter[ThiefOptions]):
    Options = ThiefOptions

    def keep(self, augmented, source):
        self.steal("keep")
        return torch.ones(len(augmented), dtype=torch.bool)


class DistillerThief(_Thief, Distiller[ThiefOptions]):
    Options = ThiefOptions

    def losses(self, student, teacher, batch):
        self.steal("losses")
        return {"size": student(batch.images).square().mean()}


THIEVES = {
    "synthesizer": {"thief": SynthesizerThief},
    "augmenter": {"thief": AugmenterThief},
    "filter": {"thief": FilterThief},
    "distiller": {"thief": DistillerThief},
}
SWAPS = dict.fromkeys(THIEVES, "thief")


def gray(context, count=8) -> SyntheticBatch:
    images = torch.rand((count, *context.card.image_shape), generator=context.generator)
    return SyntheticBatch(images, torch.arange(count) % context.card.num_classes)


@pytest.fixture
def folder(tmp_path):
    for name in ("zero", "one"):
        (tmp_path / "own" / "test" / name).mkdir(parents=True)
        Image.new("L", (16, 16)).save(tmp_path / "own" / "test" / name / "image.png")
    return tmp_path / "own"


def steals(tmp_path, folder, way, moment):
    workbench = bench(tmp_path / "results", registry_with(**THIEVES))
    chosen = [f"{kind}.{name}={value}" for kind in THIEVES for name, value in
              (("way", way), ("moment", moment), ("folder", folder))]  # fmt: skip
    (spec,) = specs(workbench, "noise", *chosen, swaps=SWAPS)
    return run_spec(spec, workbench.results, workbench.store)


@pytest.mark.parametrize("way", WAYS)
def test_a_stage_that_opens_a_dataset_is_a_failed_row(tmp_path, folder, way):
    record = steals(tmp_path, folder, way, "synthesize")
    assert record.status == "failed"
    assert "method 'noise' tried to open a dataset: a method gets the teacher and the dataset card" in record.reason


@pytest.mark.parametrize("moment", MOMENTS)
def test_no_moment_of_a_run_lets_a_stage_open_a_dataset(tmp_path, folder, moment):
    record = steals(tmp_path, folder, "by its module", moment)
    assert record.status == "failed"
    assert "tried to open a dataset" in record.reason


@pytest.mark.parametrize("way", [way for way in WAYS if way != "another dataset"])
def test_outside_of_a_run_the_same_ways_are_open(folder, way):
    assert len(WAYS[way](folder)) > 0
    assert isinstance(WAYS[way](folder), Split)


def test_the_same_stages_finish_if_they_open_nothing(tmp_path, folder):
    assert steals(tmp_path, folder, "by its module", "never").status == "finished"


def test_a_strangers_dataset_is_guarded_though_its_loader_does_not_think_of_it():
    card = DatasetCard(**{**DIGITS.model_dump(), "name": "careless"})
    registry = registry_with(dataset=[(card, lambda split, data_root: Split.of(
        torch.zeros(3, 1, 16, 16, dtype=torch.uint8), torch.zeros(3, dtype=torch.int64)
    ))])  # fmt: skip
    careless = open_dataset("careless", registry)
    assert len(careless.load("test")) == 3
    with sealed("method 'm'"), pytest.raises(DataFreeViolationError):
        careless.load("test")


# What follows walks over everything that a stage can reach from what it is given.

_LEAVES = (str, int, float, complex, type(None), torch.dtype, torch.device, torch.Size, torch.Generator)


@functools.cache
def test_images() -> frozenset[bytes]:
    return frozenset(image.numpy().tobytes() for image in digits.load("test").images)


test_images.__test__ = False  # a helper in spite of its name


def shows_a_test_image(array: Any) -> bool:
    """Whether a tensor or array holds one of the test images, as bytes or in [0, 1], alone or among others."""
    tensor = array if isinstance(array, Tensor) else None
    if isinstance(array, np.ndarray) and array.dtype.kind in "uif":
        tensor = torch.from_numpy(np.array(array))
    if tensor is None or tensor.is_complex() or tensor.numel() == 0 or tensor.numel() % 256:
        return False
    images = tensor.detach().cpu().reshape(-1, 256)
    if images.is_floating_point():
        images = (images.double() * 255).round().clamp(0, 255)
    return not test_images().isdisjoint(image.numpy().tobytes() for image in images.to(torch.uint8))


def next_to(thing: Any):
    """What can be reached from `thing` in one step; modules, classes and a function's globals are not."""
    if isinstance(thing, dict | types.MappingProxyType):
        yield from thing.keys()
        yield from thing.values()
    elif isinstance(thing, list | tuple | set | frozenset | collections.deque):
        yield from thing
    if isinstance(thing, types.FunctionType):
        for cell in thing.__closure__ or ():
            with contextlib.suppress(ValueError):  # still empty
                yield cell.cell_contents
        yield thing.__defaults__
        yield thing.__kwdefaults__
    if isinstance(thing, types.MethodType | types.BuiltinMethodType):
        yield thing.__self__
        yield getattr(thing, "__func__", None)
    if isinstance(thing, functools.partial):
        yield from (thing.func, thing.args, thing.keywords)
    if isinstance(thing, types.GeneratorType) and thing.gi_frame is not None:
        yield thing.gi_frame.f_locals
    if isinstance(thing, weakref.ref):
        yield thing()
    if isinstance(thing, Tensor):
        yield from (thing.grad if thing.is_leaf else None, thing._backward_hooks)
    yield getattr(thing, "__dict__", None)
    yield getattr(thing, "__wrapped__", None)
    for base in type(thing).__mro__:
        slots = base.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__"):
                yield getattr(thing, slot, None)


def leak(*roots: Any) -> str | None:
    """How a test image, a split or an evaluator is reached from the roots, or None."""
    todo = collections.deque((root, type(root).__name__) for root in roots)
    seen: dict[int, Any] = {}  # keeps what it has seen, so that no identity is used twice
    while todo:
        thing, path = todo.popleft()
        if id(thing) in seen or isinstance(thing, (*_LEAVES, type, types.ModuleType)):
            continue
        seen[id(thing)] = thing
        if isinstance(thing, Split | Evaluator) or shows_a_test_image(thing):
            return path
        if isinstance(thing, bytes | bytearray):
            if any(image in thing for image in test_images()):
                return path
            continue
        todo.extend((step, f"{path} > {type(step).__name__}") for step in next_to(thing))
    return None


class _Holder:
    def __init__(self, held: Any) -> None:
        self.held = held

    def method(self) -> None:
        """Bound to what holds it."""


def _hooked(held: Any) -> torch.nn.Module:
    module = torch.nn.Linear(1, 1)
    module.register_forward_hook(lambda *_: held)
    return module


HIDING_PLACES = {
    "a closure": lambda held: lambda: held,
    "a bound method": lambda held: _Holder(held).method,
    "a default": lambda held: lambda x=held: x,
    "a partial": lambda held: functools.partial(print, held),
    "a forward hook": _hooked,
    "a dict in a list": lambda held: [{"deep": (held,)}],
    "a key": lambda held: {held: 1},
    "a generator": lambda held: (held for _ in range(2)),
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_the_walk_finds_what_is_hidden(place):
    split = digits.load("test")
    hidden = [
        split,
        split.images,
        split.images[7:9].float() / 255,
        split.images[5].numpy(),
        Evaluator(split, torch.device("cpu")),
    ]
    for held in hidden:
        if place == "a key" and isinstance(held, np.ndarray):
            continue
        assert leak(HIDING_PLACES[place](held)) is not None
    assert leak(HIDING_PLACES[place](digits.load("train").images)) is None


class Spy(Distiller[StageOptions]):
    found: list[str | None] = []
    contexts: list[Any] = []

    def losses(self, student, teacher, batch):
        self.found.append(leak(self, student, teacher, batch))
        self.contexts.append(self.context)
        return {"size": student(batch.images).square().mean()}


class SynthesizerSpy(Synthesizer[StageOptions]):
    def synthesize(self, round):
        Spy.found.append(leak(self, round))
        Spy.contexts.append(self.context)
        return gray(self.context)


class AugmenterSpy(Augmenter[StageOptions]):
    def prepare(self, bank):
        Spy.found.append(leak(self, bank))

    def augment(self, batch):
        Spy.found.append(leak(self, batch))
        Spy.contexts.append(self.context)
        return SyntheticBatch(batch.images, batch.targets, torch.arange(len(batch)))


class FilterSpy(Filter[StageOptions]):
    def keep(self, augmented, source):
        Spy.found.append(leak(self, augmented, source))
        Spy.contexts.append(self.context)
        return torch.ones(len(augmented), dtype=torch.bool)


def test_nothing_that_a_stage_is_given_leads_to_a_test_image_while_a_run_lasts_or_after(tmp_path):
    Spy.found.clear()
    Spy.contexts.clear()
    stages = {"synthesizer": SynthesizerSpy, "augmenter": AugmenterSpy, "filter": FilterSpy, "distiller": Spy}
    registry = registry_with(**{kind: {"spy": stage} for kind, stage in stages.items()})
    workbench = bench(tmp_path, registry)
    (spec,) = specs(workbench, "noise", swaps=dict.fromkeys(stages, "spy"))
    record = run_spec(spec, workbench.results, workbench.store)
    assert record.status == "finished", record.reason
    assert len(Spy.found) == 3 + 1 + 3 + 3 + 6
    assert set(Spy.found) == {None}, Spy.found
    assert {leak(context) for context in Spy.contexts} == {None}
    assert all(context.images is None and context.labels is None for context in Spy.contexts)
