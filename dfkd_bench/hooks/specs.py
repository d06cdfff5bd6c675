"""What a plugin may provide. Implement any of these with `@dfkd_bench.hookimpl` in the module of your entry point.

Each hook is handed a `register` callable. A class may be given itself or, so that listing plugins imports no torch,
as `"package.module:Class"`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from dfkd_bench.card import DatasetCard
    from dfkd_bench.hooks.events import RunEvent
    from dfkd_bench.method import Method

__all__ = ["PROJECT", "hookimpl", "hookspec"]

PROJECT = "dfkd_bench"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def dfkd_synthesizers(register: Callable[[str, Any], None]) -> None:
    """Register synthesizers: `register("name", SynthesizerClass)`."""


@hookspec
def dfkd_augmenters(register: Callable[[str, Any], None]) -> None:
    """Register augmenters: `register("name", AugmenterClass)`."""


@hookspec
def dfkd_filters(register: Callable[[str, Any], None]) -> None:
    """Register filters: `register("name", FilterClass)`."""


@hookspec
def dfkd_distillers(register: Callable[[str, Any], None]) -> None:
    """Register distillers: `register("name", DistillerClass)`."""


@hookspec
def dfkd_methods(register: Callable[[Method], None]) -> None:
    """Register recipes: `register(Method(name="mine", ...))`."""


@hookspec
def dfkd_models(register: Callable[[str, Any], None]) -> None:
    """Register networks: `register("name", build)`, where `build(num_classes, in_channels)` returns an nn.Module.

    A `build(num_classes, in_channels, image_size)` is given the images' height and width, too: `(32, 32)`.
    """


@hookspec
def dfkd_datasets(register: Callable[[DatasetCard, Any], None]) -> None:
    """Register datasets: `register(card, load)`, where `load(split, data_root)` returns a `Split`."""


@hookspec
def dfkd_trackers(register: Callable[[str, Any], None]) -> None:
    """Register trackers: `register("name", make)`, where `make(results_folder)` returns a `Tracker`."""


@hookspec
def dfkd_run_event(event: RunEvent) -> None:
    """Hear what happens in a run: started, phase, progress, epoch, finished, failed."""
