"""Networks of the timm library, as ``timm/<name>``. They are built by timm and left as they are.

Behind a question mark come arguments of the network: ``timm/vit_tiny_patch16_224?depth=4&img_size=32&patch_size=4``.
They stand in alphabetical order, so that one network has one name.
"""

from __future__ import annotations

import inspect
import json
from typing import Any

import timm
from torch import Tensor, nn

from dfkd_bench.errors import DfkdError, first_line, nearest, unknown_name

__all__ = ["build", "check", "published"]

# The dataset decides two; the others read files or give no logits.
_OURS = {"num_classes", "in_chans", "features_only", *inspect.signature(timm.create_model).parameters}


def build(name: str, num_classes: int, in_channels: int = 3, pretrained: bool = False) -> nn.Module:
    """Timm's network `name` with a new classifier of `num_classes`.

    Args:
        name: a name that ``timm.list_models()`` gives, with or without ``timm/`` before it and a weight tag and
            arguments behind it.
        num_classes: length of the logits.
        in_channels: channels of the images.
        pretrained: load timm's weights, which downloads them unless they are in the hub's cache.

    Raises:
        DfkdError: as for `check`, or there are no weights.
    """
    name = name.removeprefix("timm/")
    check(name)
    name, arguments = _split(name)
    if pretrained and not timm.is_model_pretrained(name):
        raise DfkdError(f"timm has no weights for '{name}': build it with pretrained=False.")
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_channels, **arguments
        )
    except Exception as error:  # networks refuse arguments with many kinds
        if arguments and not pretrained:
            raise DfkdError(f"timm's {name} cannot be built with {arguments}: {first_line(error)}") from error
        if not pretrained or not isinstance(error, OSError | ValueError | RuntimeError):
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
    config = timm.get_pretrained_cfg(_split(name)[0])
    model = build(name, config.num_classes, pretrained=True)
    return model.state_dict(), tuple(config.mean), tuple(config.std)


def check(name: str) -> None:
    """Make sure that timm knows a network, and the weights that a tag behind its name asks for.

    Raises:
        DfkdError: it does not; the sentence has the nearest names. Or the name's arguments cannot be read.
    """
    name, _ = _split(name)
    if not timm.is_model(name):
        known = timm.list_models()
        if not nearest(name, known):  # More than a thousand names would hide the sentence.
            raise DfkdError(f"unknown timm model '{name}': see timm.list_models() for the names.")
        raise unknown_name("timm model", name, known)
    architecture, _, tag = name.partition(".")
    tagged = timm.list_pretrained(f"{architecture}.*")
    if tag and name not in tagged:
        raise unknown_name("timm weights", name, tagged)


def _split(name: str) -> tuple[str, dict[str, Any]]:
    """A name without its arguments, and these."""
    bare, mark, text = name.partition("?")
    pairs = [one.partition("=") for one in text.split("&")] if mark else []
    arguments = {key: _value(value) for key, _, value in pairs}
    if not all(key.isidentifier() and value for key, _, value in pairs):
        raise DfkdError(f"'{name}' has arguments that cannot be read: write {bare}?img_size=32&patch_size=4")
    if [key for key, _, _ in pairs] != sorted(arguments):
        ordered = "&".join(f"{key}={value}" for key, value in sorted({key: value for key, _, value in pairs}.items()))
        raise DfkdError(f"'{name}' must give each argument once, in alphabetical order: {bare}?{ordered}")
    kept = sorted(key for key in arguments if key in _OURS or key.startswith("pretrained"))
    if kept:
        raise DfkdError(f"'{name}' sets {', '.join(kept)}, which no name may set: leave it out")
    return bare, arguments


def _value(text: str) -> Any:
    """A number, true, false, null, an array of these as in `2,2,6,2`; else the text itself."""
    for form in (text, f"[{text}]"):
        try:
            return json.loads(form)
        except ValueError:
            continue
    return text
