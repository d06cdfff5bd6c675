"""The field's methods as plugins, one short file each. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfkd_baselines.recipes import METHODS
from dfkd_bench import Method, hookimpl

_SYNTHESIZERS = {
    "deepinversion": "deepinversion:DeepInversion",
    "cmi": "cmi:ContrastiveInversion",
    "generative": "generative:Generative",
    "fast": "fast:FastInversion",
    "csd": "csd:CustomizedInversion",
    "nayer": "nayer:NoisyLayerInversion",
    "noise": "noise:Noise",
    "untrained-generator": "noise:UntrainedGenerator",
    "one-image": "references:OneImage",
    "other-dataset": "references:OtherDataset",
    "real-data": "references:RealData",
}
_DISTILLERS = {
    "l1": "generative:L1Distiller",
    "csd": "csd:CsdDistiller",
    "cross-entropy": "references:CrossEntropy",
}


@hookimpl
def dfkd_synthesizers(register: Callable[[str, Any], None]) -> None:
    """Where images come from."""
    for name, target in _SYNTHESIZERS.items():
        register(name, f"dfkd_baselines.{target}")


@hookimpl
def dfkd_distillers(register: Callable[[str, Any], None]) -> None:
    """What the student minimizes."""
    for name, target in _DISTILLERS.items():
        register(name, f"dfkd_baselines.{target}")


@hookimpl
def dfkd_methods(register: Callable[[Method], None]) -> None:
    """Recipes."""
    for method in METHODS:
        register(method)
