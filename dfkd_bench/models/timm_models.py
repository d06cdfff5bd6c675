"""Networks of the timm library, as ``timm/<name>``. They are built by timm and left as they are."""

from __future__ import annotations

import timm
from torch import Tensor, nn

from dfkd_bench.errors import DfkdError, first_line, nearest, unknown_name

__all__ = ["build", "check", "published"]


def build(name: str, num_classes: int, in_channels: int = 3, pretrained: bool = False) -> nn.Module:
    """Timm's network `name` with a new classifier of `num_classes`.

    Args:
        name: a name that ``timm.list_models()`` gives, with or without ``timm/`` before it and a weight tag behind it.
        num_classes: length of the logits.
        in_channels: channels of the images.
        pretrained: load timm's weights, which downloads them unless they are in the hub's cache.

    Raises:
        DfkdError: as for `check`, or there are no weights.
    """
    name = name.removeprefix("timm/")
    check(name)
    if pretrained and not timm.is_model_pretrained(name):
        raise DfkdError(f"timm has no weights for '{name}': build it with pretrained=False.")
    try:
        model: nn.Module = timm.create_model(name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels)
    except (OSError, ValueError, RuntimeError) as error:
        if not pretrained:
            raise
        raise DfkdError(
            f"timm's weights '{name}' cannot be loaded ({first_line(error)}): download them online"
        ) from error
    return model


def published(name: str) -> tuple[dict[str, Tensor], tuple[float, ...], tuple[float, ...]]:
    """The weights of `name` as timm publishes them, classifier included, with the mean and deviation they go with.

    Raises:
        DfkdError: as for `build`.
    """
    name = name.removeprefix("timm/")
    check(name)
    config = timm.get_pretrained_cfg(name)
    model = build(name, config.num_classes, pretrained=True)
    return model.state_dict(), tuple(config.mean), tuple(config.std)


def check(name: str) -> None:
    """Make sure that timm knows a network, and the weights that a tag behind its name asks for.

    Raises:
        DfkdError: it does not; the sentence has the nearest names.
    """
    if not timm.is_model(name):
        known = timm.list_models()
        if not nearest(name, known):  # More than a thousand names would hide the sentence.
            raise DfkdError(f"unknown timm model '{name}': see timm.list_models() for the names.")
        raise unknown_name("timm model", name, known)
    architecture, _, tag = name.partition(".")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        raise unknown_name("timm weights", name, tagged)
