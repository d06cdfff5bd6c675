"""The core's own networks, datasets and plain stages, registered like any plugin's. Imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfkd_bench.card import DatasetCard
from dfkd_bench.datasets.cards import CIFAR10, CIFAR100, DIGITS, TINY_IMAGENET
from dfkd_bench.hooks.specs import hookimpl

#: The dataset where none is named: it comes with the package.
DEFAULT_DATASET = DIGITS.name

_FAMILIES = {
    "wrn": ("wrn16_1", "wrn16_2", "wrn40_1", "wrn40_2"),
    "resnet": ("resnet18", "resnet34", "resnet50"),
    "vgg": ("vgg8", "vgg11", "vgg13", "vgg16", "vgg19"),
    "mobilenet": ("mobilenetv2", "mobilenetv2_half"),
    "shufflenet": ("shufflenetv2",),
    "resnet_cifar": ("resnet8", "resnet20", "resnet32", "resnet56", "resnet110", "resnet8x4", "resnet32x4"),
    "lenet": ("lenet5", "lenet5_half"),
}


@hookimpl
def dfkd_augmenters(register: Callable[[str, Any], None]) -> None:
    """What recipes fall back on, and the control of diffusion."""
    register("none", "dfkd_bench.stages.plain:NoAugmentation")
    register("classic", "dfkd_bench.stages.plain:ClassicTransforms")


@hookimpl
def dfkd_filters(register: Callable[[str, Any], None]) -> None:
    """What recipes fall back on, and the teacher's opinion."""
    register("all", "dfkd_bench.stages.plain:KeepAll")
    register("agreement", "dfkd_bench.stages.plain:TeacherAgreement")


@hookimpl
def dfkd_distillers(register: Callable[[str, Any], None]) -> None:
    """What recipes fall back on."""
    register("kd", "dfkd_bench.stages.plain:Distillation")


@hookimpl
def dfkd_models(register: Callable[[str, Any], None]) -> None:
    """Networks by family."""
    for family, names in _FAMILIES.items():
        for name in names:
            register(name, f"dfkd_bench.models.{family}:{name}")


@hookimpl
def dfkd_datasets(register: Callable[[DatasetCard, Any], None]) -> None:
    """The bundled digits and the hub's datasets."""
    register(DIGITS, "dfkd_bench.datasets.digits:load")
    register(CIFAR10, "dfkd_bench.datasets.hub:load_cifar10")
    register(CIFAR100, "dfkd_bench.datasets.hub:load_cifar100")
    register(TINY_IMAGENET, "dfkd_bench.datasets.hub:load_tiny_imagenet")
