"""Methods of 2022 to 2024 as plugins, one short file each. Importing it imports no torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dfkd_bench import Method, hookimpl
from dfkd_recent.recipes import METHODS


@hookimpl
def dfkd_synthesizers(register: Callable[[str, Any], None]) -> None:
    """Where images come from."""
    register("gapssg", "dfkd_recent.gapssg:GapInversion")
    register("spaceshipnet", "dfkd_recent.spaceshipnet:Spaceship")
    register("ta-dfkd", "dfkd_recent.ta_dfkd:LenientExpert")
    register("vit-inversion", "dfkd_recent.vit_inversion:VitInversion")


@hookimpl
def dfkd_filters(register: Callable[[str, Any], None]) -> None:
    """What the student sees of it."""
    register("ta-dfkd", "dfkd_recent.ta_dfkd:LenientSelection")


@hookimpl
def dfkd_distillers(register: Callable[[str, Any], None]) -> None:
    """What the student minimizes."""
    register("spaceshipnet", "dfkd_recent.spaceshipnet:SpaceshipDistiller")


@hookimpl
def dfkd_methods(register: Callable[[Method], None]) -> None:
    """Recipes."""
    for method in METHODS:
        register(method)
