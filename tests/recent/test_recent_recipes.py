"""The recipes say what the released scripts say."""

from __future__ import annotations

import pytest

from dfkd_bench.datasets.cards import CIFAR10, CIFAR100
from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.planning.requests import Request, resolve
from dfkd_bench.spec import Pair, RunSpec, TeacherRef


def spec_of(method: str, pair: str, dataset: str, preset: str = "paper") -> RunSpec:
    registry, networks = default_registry(), Pair.parse(pair)
    request = Request([method], [networks], dataset, TeacherRef(sha256="0" * 64), preset)
    return resolve(registry.load("method", method), request, networks, 0, registry)


def test_gapssg_takes_the_steps_that_its_script_takes():
    schedule = spec_of("gapssg", "resnet34:mobilenetv2", CIFAR100.name).schedule
    assert [schedule.steps_in(epoch) for epoch in (0, 1, 199)] == [4, 8, 800]
    assert schedule.steps_until(schedule.epochs) == 80_400


@pytest.mark.parametrize(("dataset", "epochs"), [("cifar10", 200), ("cifar100", 200), ("tiny_imagenet", 400)])
def test_spaceshipnet_distills_a_hundred_million_images(dataset, epochs):
    spec = spec_of("spaceshipnet", "resnet34:resnet18", dataset)
    schedule = spec.schedule
    assert schedule.epochs * schedule.steps_per_epoch * schedule.batch_size == epochs * 512_000
    assert spec.distiller.options["bias"] is False
    assert spec.distiller.options["kl_reduction"] == "released"


@pytest.mark.parametrize(("dataset", "samples"), [("cifar10", 73.7e6), ("cifar100", 184e6)])
def test_ta_dfkd_takes_ten_student_steps_for_each_of_the_generators(dataset, samples):
    spec = spec_of("ta-dfkd", "resnet34:resnet18", dataset)
    schedule = spec.schedule
    assert schedule.steps_per_epoch == 10 * schedule.rounds_per_epoch == 360
    assert schedule.epochs * schedule.steps_per_epoch * schedule.batch_size == pytest.approx(samples, rel=0.005)
    assert (spec.filter.name, spec.distiller.name) == ("ta-dfkd", "l1")


def test_sparse_patches_are_dropped_when_the_release_drops_them():
    options = spec_of(
        "vit-inversion", "timm/deit_tiny_patch16_224:resnet18", CIFAR10.name, "paper-sparse"
    ).synthesizer.options
    total = 2 * options["steps"]
    assert [round(part * total) for part in options["sparse_at"]] == [50, 100, 200, 300]
