"""Networks. `build_model` is the one door; timm's stand behind it as `timm/<name>` or `timm/<name>?<arguments>`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dfkd_bench.errors import DfkdError, first_line

if TYPE_CHECKING:
    from torch import nn

    from dfkd_bench.card import DatasetCard
    from dfkd_bench.hooks.registry import Registry

__all__ = ["TIMM", "brings_weights", "build_model", "check_model"]

TIMM = "timm/"


def check_model(name: str, registry: Registry) -> None:
    """Make sure that a network of this name is known.

    Raises:
        DfkdError: it is not; the sentence has the nearest names.
    """
    if name.startswith(TIMM):
        from dfkd_bench.models import timm_models

        timm_models.check(name.removeprefix(TIMM))
    else:
        registry.find("model", name)


def brings_weights(name: str) -> bool:
    """Whether the name asks for weights learnt elsewhere: timm's with a tag, such as `timm/resnet18.a1_in1k`."""
    return name.startswith(TIMM) and "." in name.partition("?")[0]


def build_model(name: str, card: DatasetCard, registry: Registry, *, start: bool = False) -> nn.Module:
    """A network for a dataset's classes and channels, with fresh weights.

    Args:
        name: a registered network, `timm/<name>`, or with timm's arguments `timm/<name>?img_size=32&patch_size=4`.
        card: the dataset.
        registry: where networks come from.
        start: it is to be trained: a name that brings weights then has them, but for a new classifier.

    Raises:
        DfkdError: the name is unknown, its weights cannot be had, or it cannot take the dataset's images.
    """
    channels = card.image_shape[0]
    if name.startswith(TIMM):
        from dfkd_bench.models import timm_models

        pretrained = start and brings_weights(name)
        body: nn.Module = timm_models.build(name.removeprefix(TIMM), card.num_classes, channels, pretrained)
    else:
        build = registry.load("model", name)
        body = build(card.num_classes, channels, *_size_if_wanted(build, card.image_shape[1:]))
    _check_images(name, body, card)
    return body


def _size_if_wanted(build: Callable[..., Any], size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """Height and width for a network that has a parameter `image_size`; most take images of any size, and have none."""
    return (size,) if "image_size" in inspect.signature(build).parameters else ()


def _check_images(name: str, body: nn.Module, card: DatasetCard) -> None:
    import torch

    training = body.training
    try:
        with torch.no_grad():
            logits = body.eval()(torch.zeros(2, *card.image_shape))
    except Exception as error:  # networks refuse sizes with many kinds
        raise DfkdError(
            f"{name} cannot take {card.name}'s images {list(card.image_shape)}: {first_line(error)}"
        ) from error
    finally:
        body.train(training)
    if logits.shape != (2, card.num_classes):
        raise DfkdError(
            f"{name} puts out {list(logits.shape[1:])}, not one logit for each of {card.num_classes} classes"
        )
