"""Finds plugins, keeps a broken one from breaking the rest, and answers "who provides X?". Imports no torch."""

from __future__ import annotations

import functools
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, get_args

import pluggy

from dfkd_bench.card import DatasetCard
from dfkd_bench.errors import DfkdError, unknown_name
from dfkd_bench.hooks import specs
from dfkd_bench.hooks.events import RunEvent
from dfkd_bench.method import Method
from dfkd_bench.texts import brief, message, visible

__all__ = ["STAGE_KINDS", "Kind", "PluginRow", "Provided", "Registry", "StageKind", "default_registry"]

StageKind = Literal["synthesizer", "augmenter", "filter", "distiller"]
Kind = Literal[StageKind, "method", "model", "dataset", "tracker"]
STAGE_KINDS: tuple[StageKind, ...] = get_args(StageKind)
KINDS: tuple[Kind, ...] = (*STAGE_KINDS, "method", "model", "dataset", "tracker")


@dataclass(frozen=True)
class Provided:
    """One registration: `target` is the thing itself or a lazy `"package.module:Name"`; `card` is a dataset's."""

    kind: Kind
    name: str
    target: Any
    plugin: str
    card: DatasetCard | None = None


@dataclass
class PluginRow:
    """One plugin: what it provides, or why it cannot be used."""

    name: str
    distribution: str
    version: str
    reason: str | None = None
    provides: list[Provided] = field(default_factory=list)


class Registry:
    """All that the plugins of the `dfkd_bench` entry-point group provide.

    A plugin comes in whole or not at all: if it fails to import, breaks the contract or registers a name that is
    taken, none of its registrations stays, and its row says why.
    """

    def __init__(self, found: Iterable[EntryPoint] | None = None) -> None:
        self.rows: list[PluginRow] = []
        self._provided: dict[tuple[Kind, str], Provided] = {}
        self._listeners: list[object] = []
        self._manager = pluggy.PluginManager(specs.PROJECT)
        self._manager.add_hookspecs(specs)
        points = entry_points(group=specs.PROJECT) if found is None else found
        # Our own come first, so that a stranger's plugin can never take a built-in name from under them.
        for point in sorted(points, key=lambda p: (_distribution(p)[0] != "dfkd-bench", p.name)):
            distribution, version = _distribution(point)
            row = PluginRow(point.name, distribution, version)
            self.rows.append(row)
            try:
                self.add(point.load(), row)
            except (
                Exception,
                SystemExit,
            ) as error:  # whatever a stranger's module raises is that plugin's row, not our end
                row.reason = _sentence(error)

    def add(self, plugin: object, row: PluginRow) -> None:
        """Register `plugin` under `row.name`.

        Raises:
            DfkdError: it breaks the contract; nothing of it stays registered.
        """
        self._manager.register(plugin, row.name)
        try:
            self._manager.check_pending()
            provided = self._collect(plugin, row.name)
        except BaseException:
            self._manager.unregister(plugin)
            raise
        row.provides = provided
        self._provided.update({(item.kind, item.name): item for item in provided})

    def _collect(self, plugin: object, plugin_name: str) -> list[Provided]:
        collected: dict[tuple[Kind, str], Provided] = {}

        def take(kind: Kind, name: str, target: Any, card: DatasetCard | None = None) -> None:
            _check_target(kind, name, target)
            taken = self._provided.get((kind, name)) or collected.get((kind, name))
            if taken is not None:
                raise DfkdError(f"registers the {kind} '{name}', which plugin '{taken.plugin}' already provides")
            collected[kind, name] = Provided(kind, name, target, plugin_name, card)

        def take_method(method: Method) -> None:
            if not isinstance(method, Method):
                raise DfkdError(f"registers {method!r} as a method, which is no dfkd_bench.Method")
            take("method", method.name, method)

        def take_dataset(card: DatasetCard, load: Any) -> None:
            if not isinstance(card, DatasetCard):
                raise DfkdError(f"registers {card!r} as a dataset, which is no dfkd_bench.DatasetCard")
            take("dataset", card.name, load, card)

        others = [other for other in self._manager.get_plugins() if other is not plugin]
        for kind in KINDS:
            register: Callable[..., None]
            if kind == "method":
                register = take_method
            elif kind == "dataset":
                register = take_dataset
            else:
                register = functools.partial(take, kind)
            self._manager.subset_hook_caller(f"dfkd_{kind}s", others)(register=register)
        return list(collected.values())

    def provided(self, kind: Kind) -> Mapping[str, Provided]:
        """Everything of one kind by name, sorted."""
        found = {name: item for (of, name), item in self._provided.items() if of == kind}
        return MappingProxyType(dict(sorted(found.items())))

    def find(self, kind: Kind, name: str) -> Provided:
        """Who provides `name`.

        Raises:
            DfkdError: nobody; the sentence has the nearest names.
        """
        if len(parts := joined_names(kind, name)) > 1:
            plugins = dict.fromkeys(self.find(kind, part).plugin for part in parts)
            return Provided(kind, name, name, " and ".join(plugins))
        found = self._provided.get((kind, name))
        if found is None:
            raise unknown_name(kind, name, self.provided(kind))
        return found

    def load(self, kind: Kind, name: str) -> Any:
        """The thing itself: a lazy target is imported now.

        Raises:
            DfkdError: nobody provides it, it cannot be imported, or it breaks the contract.
        """
        item = self.find(kind, name)
        if len(parts := joined_names(kind, name)) > 1:
            from dfkd_bench.stages.joined import joined  # imports torch

            return joined(tuple(parts), tuple(self.load(kind, part) for part in parts))
        try:
            target = _import(item.target) if isinstance(item.target, str) else item.target
            _check_loaded(kind, name, target)
        except Exception as error:
            raise DfkdError(
                f"the {kind} '{name}' of plugin '{item.plugin}' cannot be used: {_sentence(error)}"
            ) from error
        return target

    def studies(self) -> dict[str, Path]:
        """Grid files by name: those in the folder `studies` beside a plugin's module."""
        folders = [Path(file).parent / "studies" for p in self._manager.get_plugins() if (file := _file_of(p))]
        return {path.stem: path for folder in folders for path in sorted(folder.glob("*.toml"))}

    def listen(self, plugin: object) -> None:
        """Add a plugin for the `dfkd_run_event` hook while the program runs."""
        self._manager.register(plugin)
        self._listeners.append(plugin)

    def unlisten(self, plugin: object) -> None:
        """Take such a plugin away again."""
        self._listeners = [listener for listener in self._listeners if listener is not plugin]
        if self._manager.is_registered(plugin):  # one that raised was taken away already
            self._manager.unregister(plugin)

    def emit(self, event: RunEvent, *, relayed: bool = False) -> None:
        """Tell every plugin. One that raises is warned about and hears nothing more: a display never ends a run.

        An event that is `relayed` from the process where it happened reaches only those who came by `listen`: the
        installed plugins heard it there.
        """
        for listener in list(self._manager.hook.dfkd_run_event.get_hookimpls()):
            if relayed and not any(listener.plugin is known for known in self._listeners):
                continue
            try:
                listener.function(*[event for _ in listener.argnames])
            except Exception as error:
                warnings.warn(
                    visible(brief(f"plugin '{listener.plugin_name}' no longer hears run events: {_sentence(error)}")),
                    stacklevel=2,
                )
                self._manager.unregister(listener.plugin)

    def versions(self) -> dict[str, str]:
        """Version of each distribution whose plugins came in."""
        return {row.distribution: row.version for row in self.rows if row.reason is None}


def joined_names(kind: str, name: str) -> list[str]:
    """The names in a name: several filters may be joined, as in `cosine+agreement`.

    Raises:
        DfkdError: one of them is there twice.
    """
    names = name.split("+") if kind == "filter" else [name]
    if len(set(names)) < len(names):
        raise DfkdError(f"'{name}' joins a filter with itself: name each once")
    return names


@functools.cache
def default_registry() -> Registry:
    """The registry of everything installed, made once."""
    return Registry()


def _file_of(plugin: object) -> str | None:
    return getattr(plugin, "__file__", None)


def _distribution(point: EntryPoint) -> tuple[str, str]:
    found = point.dist
    return (found.name, found.version) if found is not None else ("?", "?")


def _sentence(error: BaseException) -> str:
    text = message(error)
    return text if isinstance(error, DfkdError) else f"{type(error).__name__}: {text}"


def _check_target(kind: Kind, name: object, target: object) -> None:
    if kind == "filter" and isinstance(name, str) and "+" in name:
        raise DfkdError(f"registers a filter under {name!r}; with '+' users join filters, so no name has one")
    if not isinstance(name, str) or not name or any(c.isspace() or c in ":=," for c in name):
        raise DfkdError(f"registers a {kind} under {name!r}; a name is a word without spaces, ':', '=' or ','")
    if isinstance(target, str):
        module, _, attribute = target.partition(":")
        if not module or not attribute:
            raise DfkdError(
                f"registers the {kind} '{name}' as {target!r}; a lazy target is written 'package.module:Name'"
            )
    elif kind in STAGE_KINDS:
        _check_loaded(kind, name, target)
    elif kind != "method" and not callable(target):
        raise DfkdError(f"registers the {kind} '{name}' as {target!r}, which cannot be called")


def _import(target: str) -> Any:
    module, _, attribute = target.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _check_loaded(kind: Kind, name: str, target: object) -> None:
    if kind in STAGE_KINDS:
        from dfkd_bench.stages import base as stages  # imports torch; whoever comes here has a stage class at hand

        base = stages.BASES[kind]
        if not (inspect.isclass(target) and issubclass(target, base)):
            raise DfkdError(f"the {kind} '{name}' is no subclass of dfkd_bench.{base.__name__}")
        stages.check_class(target)
    elif kind in ("model", "dataset", "tracker") and not callable(target):
        raise DfkdError(f"the {kind} '{name}' cannot be called")
