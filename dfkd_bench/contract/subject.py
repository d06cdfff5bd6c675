"""A stage under test, and what is found of it."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from dfkd_bench.card import DatasetCard
from dfkd_bench.contract.alternatives import alternatives, shrunk
from dfkd_bench.contract.breach import Breach
from dfkd_bench.contract.episode import Episode, play
from dfkd_bench.contract.world import CPU, Build, World, make_card
from dfkd_bench.stages.base import Stage
from dfkd_bench.stages.network import Precision
from dfkd_bench.stages.options import StageOptions
from dfkd_bench.stages.requirements import NEEDS

__all__ = ["Finding", "Subject", "Verdict", "pair_lacks"]

Verdict = Literal["pass", "fail", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        stage: what the stage is called.
        check: the check's name.
        verdict: `pass`, `fail`, or `skipped` where it does not apply.
        reason: why, in a sentence; for a pass what is to be known.
        where: of a failure, FILE:LINE of the plugin; empty if that is not known.
    """

    stage: str
    check: str
    verdict: Verdict
    reason: str = ""
    where: str = ""

    def __str__(self) -> str:
        reason = f": {self.reason}" if self.reason else ""
        return f"{self.stage}: {self.check}: {self.verdict}{reason}{f' ({self.where})' if self.where else ''}"


@dataclass(frozen=True)
class Subject:
    """A stage under test.

    Attributes:
        name: what the findings call it.
        stage: its class.
        given: the settings that it is tried with, as they were given.
        precision: of the networks.
        pair: what makes the networks' bodies; None: the kit's tiny ones.
        behavior: make the checks of behavior, too.
        device: where it is played.
        settings: the same, with small counts of steps and images. The first one is used throughout.
    """

    name: str
    stage: type[Stage[Any]]
    given: tuple[StageOptions, ...]
    precision: Precision = torch.float32
    pair: tuple[Build, Build] | None = None
    behavior: bool = True
    device: torch.device = CPU
    settings: tuple[StageOptions, ...] = field(init=False)
    _played: dict[StageOptions, Episode] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", tuple(dict.fromkeys(map(shrunk, self.given))))

    def once(self, options: StageOptions | None = None) -> Episode:
        """As `play`, remembered: for the checks that compare with the plain case."""
        options = options or self.settings[0]
        if options not in self._played:
            self._played[options] = self.play(options)
        return self._played[options]

    def others(self, options: StageOptions, name: str) -> Iterator[StageOptions]:
        """The options with other values of one, but none that asks for knowledge from outside: that is not at hand."""
        prior = self.stage.prior_with(options)
        for other in alternatives(options, name):
            small = shrunk(other)
            if small != options and self.stage.prior_with(small) == prior and self.lacking(small) is None:
                yield small

    def lacking(self, options: StageOptions) -> str | None:
        """What the pair lacks for these options, in words; None if nothing, as the kit's own networks."""
        return None if self.pair is None else pair_lacks(self.stage, options, self.pair)

    def play(self, options: StageOptions | None = None, *, cut: int | None = None, **world: Any) -> Episode:
        """Play it in a world of its own; `world` has fields of `World`."""
        with tempfile.TemporaryDirectory(prefix="dfkd-contract-") as folder:
            return play(self.stage, options or self.settings[0], self.world(**{"cache": folder, **world}), cut=cut)

    def world(self, cache: Path | str, **more: Any) -> World:
        """A world in its precision, with its pair; `more` has further fields."""
        if self.pair is not None:
            more = {"card": _card_of_pairs(), "pair": self.pair, **more}
        given: dict[str, Any] = {"cache": Path(cache), "precision": self.precision, "device": self.device}
        return World(**{**given, "attention": "attention" in self.stage.requires, **more})

    def every_setting(self) -> Iterator[tuple[StageOptions, Episode]]:
        """Each of the settings with what it does.

        Raises:
            Breach: one does what the contract forbids; the sentence says which.
        """
        for options in self.settings:
            try:
                episode = self.once(options)
            except Breach as breach:
                text = f"{self.differing(options)}{breach}"
                raise Breach(text, check=breach.check, method=breach.method) from breach
            yield options, episode

    def differing(self, options: StageOptions) -> str:
        """'with adv=0.5: ', what tells these options from the first settings; empty for these."""
        first = self.settings[0]
        values = [f"{name}={value}" for name, value in options if value != getattr(first, name)]
        return f"with {', '.join(values)}: " if values else ""

    def cut_down(self, options: StageOptions) -> str:
        """'steps=3 (not 200)', what the kit made smaller in these options; empty if nothing."""
        given = next(each for each in self.given if shrunk(each) == options)
        cut = [
            f"{name}={value} (not {getattr(given, name)})" for name, value in options if value != getattr(given, name)
        ]
        return ", ".join(cut)


def pair_lacks(stage: type[Stage[Any]], options: StageOptions, pair: tuple[Build, Build]) -> str | None:
    """What a stage needs with these options and the pair's networks do not have, in words; None if nothing."""
    offered = _offers(pair)
    for name in sorted(stage.requires_with(options)):
        need = NEEDS[name]
        if any(need.offer not in offered.get(part, {need.offer}) for part in need.of):
            return f"needs {need.what}"
    return None


@functools.lru_cache(maxsize=16)
def _offers(pair: tuple[Build, Build]) -> dict[str, frozenset[str]]:
    """What teacher and student offer, by the names that the table of needs has."""
    found = {}
    with torch.random.fork_rng(devices=[]):
        for part, build in zip(("teacher", "student"), pair, strict=True):
            body = build(_card_of_pairs())
            layers = any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
            stages = isinstance(getattr(body, "stages", None), tuple)
            offers = {"batchnorm": layers, "stages": stages}
            found[part] = frozenset(name for name, has in offers.items() if has)
    return found


def _card_of_pairs() -> DatasetCard:
    return make_card(5, 3, 32, 32)
