"""Networks. `build_model` is the one door; timm's stand behind it as `timm/<name>`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dfkd_bench.errors import DfkdError, first_line

if TYPE_CHECKING:
    from torch import nn

    from dfkd_bench.datasets.card import DatasetCard
    from dfkd_bench.plugins import Registry

__all__ = ["TIMM", "build_model", "check_model"]

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


def build_model(name: str, card: DatasetCard, registry: Registry) -> nn.Module:
    """A network with fresh weights for a dataset's classes and channels.

    Raises:
        DfkdError: the name is unknown, or the network cannot take the dataset's images.
    """
    channels = card.image_shape[0]
    if name.startswith(TIMM):
        from dfkd_bench.models import timm_models

        body: nn.Module = timm_models.build(name.removeprefix(TIMM), card.num_classes, channels)
    else:
        body = registry.load("model", name)(card.num_classes, channels)
    _check_images(name, body, card)
    return body


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
