"""The nine checks of the contract. Each plays the stage and answers pass, fail or skipped, with a reason."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from dfkd_bench.contract.alternatives import alternatives, shrunk
from dfkd_bench.contract.episode import Breach, Episode, play, same
from dfkd_bench.contract.world import World, make_card
from dfkd_bench.errors import DfkdError
from dfkd_bench.stages.base import Distiller, Stage, Synthesizer
from dfkd_bench.stages.options import StageOptions

__all__ = ["CHECKS", "Finding", "Subject", "Verdict", "check_subject"]

Verdict = Literal["pass", "fail", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What one check found."""

    stage: str
    check: str
    verdict: Verdict
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.stage}: {self.check}: {self.verdict}{': ' if self.reason else ''}{self.reason}"


@dataclass(frozen=True)
class Subject:
    """A stage under test: its name, its class, and the settings that it is tried with, the first one throughout."""

    name: str
    stage: type[Stage[Any]]
    settings: tuple[StageOptions, ...]
    _played: dict[StageOptions, Episode] = field(default_factory=dict, compare=False, repr=False)

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
            if small != options and self.stage.prior_with(small) == prior:
                yield small

    def play(self, options: StageOptions | None = None, *, cut: int | None = None, **world: Any) -> Episode:
        """Play it in a world of its own; `world` has fields of `World`."""
        with tempfile.TemporaryDirectory(prefix="dfkd-contract-") as folder:
            return play(self.stage, options or self.settings[0], World(**{"cache": Path(folder), **world}), cut=cut)


class Skip(Exception):  # noqa: N818 - an outcome, no error
    """A check does not apply; the text says why."""


def finite_and_in_range(subject: Subject) -> str:
    """Images stay finite and in [0, 1]; shapes and types are those of the contract."""
    for options in subject.settings:
        subject.once(options)
    return ""


def networks_untouched(subject: Subject) -> str:
    """The teacher's weights, BatchNorm statistics and modes are as before; so are the student's, but for its loss."""
    # The episode compares them around every call: to come through it is to pass.
    for options in subject.settings:
        subject.once(options)
    return ""


def _adversaries(subject: Subject) -> list[str]:
    return [name for name in subject.stage.Options.model_fields if name.split("_")[0] == "adv"]


def _looking(subject: Subject) -> Iterator[tuple[StageOptions, Episode]]:
    """Settings with what they do, and those with an adversary's weight where it is off by default."""
    for options in subject.settings:
        yield options, subject.once(options)
        for name in _adversaries(subject):
            for other in subject.others(options, name):
                with suppress(Breach, DfkdError):  # an odd value may break the stage; other checks tell of it
                    yield other, subject.once(other)


def student_is_not_the_teacher(subject: Subject) -> str:
    """The student in the stage's loss is the student."""
    if issubclass(subject.stage, Distiller):
        episode = subject.once()
        if not episode.student_passes:
            raise Breach("its losses never look at the student: is the teacher in its place?")
        if not episode.student_gradient:
            raise Breach("its losses give the student's weights no gradient: is the teacher in its place?")
        return ""
    if any(episode.student_passes for _, episode in _looking(subject)):
        return ""
    claims = _adversaries(subject)
    if claims:
        raise Breach(
            f"it has an adversary ('{claims[0]}') but never looks at the student: is the teacher in its place?"
        )
    raise Skip("it does not look at the student")


def adversary_is_alive(subject: Subject) -> str:
    """What the stage takes from the student reaches its images, and changes with the student."""
    if issubclass(subject.stage, Distiller):
        raise Skip("a distiller has no adversary")
    looks = reaches = changes = False
    for options, episode in _looking(subject):
        if episode.student_passes:
            looks = True
            reaches = reaches or episode.student_gradient > 0 or not issubclass(subject.stage, Synthesizer)
            changes = changes or not same(episode.trace, subject.play(options, student_seed=77).trace)
        if reaches and changes:
            return ""
    if not looks:
        raise Skip("it does not look at the student")
    if not changes:
        raise Breach("another student makes no difference: its part of the loss is dead")
    raise Breach("no gradient comes back through the student: its part of the loss is a constant to the images")


def options_matter(subject: Subject) -> str:
    """Each declared option changes what the stage does, in one setting at least."""
    dead, unclear = [], []
    for name in subject.stage.Options.model_fields:
        answer = _matters(subject, name)
        if answer is None:
            unclear.append(name)
        elif not answer:
            dead.append(name)
    if dead:
        raise Breach(f"nothing depends on {', '.join(map(repr, dead))}, whatever value it is given")
    if unclear and len(unclear) == len(subject.stage.Options.model_fields):
        raise Skip(f"no other value at hand for {', '.join(unclear)}: give the field `examples`")
    return f"not tried, for want of another value: {', '.join(unclear)}" if unclear else ""


def _matters(subject: Subject, name: str) -> bool | None:
    """Whether an option has an effect; None if no other value of it could be tried."""
    tried = False
    for options in (*subject.settings, *_switched(subject, name)):
        for other in subject.others(options, name):
            try:
                differs = not same(subject.once(options).trace, subject.once(other).trace)
            except (DfkdError, Breach):
                continue
            if differs:
                return True
            tried = True
    return False if tried else None


def _switched(subject: Subject, name: str) -> Iterator[StageOptions]:
    """Settings with one other option switched: an option may be heeded only where another is on, or off."""
    for options in subject.settings:
        for switch, value in options:
            if switch == name or (isinstance(value, int) and not isinstance(value, bool)):
                continue
            for other in subject.others(options, switch):
                if not isinstance(getattr(other, switch), float) or getattr(other, switch) in (0.0, 1.0):
                    yield other


def state_round_trips(subject: Subject) -> str:
    """Stored and made anew in the middle of a run, the stage goes on as if nothing had happened."""
    for index, options in enumerate(subject.settings):
        whole = subject.once(options)
        # At every step in the first setting, once in the middle in the others.
        cuts = range(1, len(whole.trace)) if index == 0 else [len(whole.trace) // 2 + 1]
        for cut in cuts:
            if not same(whole.trace, subject.play(options, cut=cut).trace):
                raise Breach(f"after its state was stored before step {cut + 1} it goes on differently")
    return ""


def same_seed_same_images(subject: Subject) -> str:
    """What it does depends on its own random stream alone."""
    traces = []
    for unrelated in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(unrelated)
            traces.append(subject.play().trace)
    if not same(*traces):
        raise Breach("the same seed gives something else the second time: it draws from elsewhere than its stream")
    return ""


def fresh_run_is_fresh(subject: Subject) -> str:
    """Nothing of an earlier run reaches a later one: not through the class, not through the cache folder."""
    with tempfile.TemporaryDirectory(prefix="dfkd-contract-") as folder:
        alone = subject.play(seed=5).trace
        subject.play(seed=6, cache=Path(folder))
        if not same(alone, subject.play(seed=5, cache=Path(folder)).trace):
            raise Breach("after another run it does something else: something of the earlier run is left")
    return ""


def any_classes_and_sizes(subject: Subject) -> str:
    """It takes any number of classes, any image size and one-channel images."""
    refused = ""
    for classes, channels, height, width in ((2, 3, 8, 8), (17, 1, 12, 12), (5, 3, 10, 10), (3, 3, 8, 12)):
        card = make_card(classes, channels, height, width)
        what = f"{classes} classes of {channels}x{height}x{width} images"
        try:
            subject.play(card=card)
        except DfkdError as error:
            if height == width:
                raise Breach(f"it refuses {what}: {error}") from error
            refused = f"refuses images that are not square: {error}"
        except Exception as error:
            raise Breach(f"with {what}: {_told(error)}") from error
    return refused


CHECKS: dict[str, Callable[[Subject], str]] = {
    "images finite and in [0, 1]": finite_and_in_range,
    "teacher and student untouched": networks_untouched,
    "the student is not the teacher": student_is_not_the_teacher,
    "the adversary is alive": adversary_is_alive,
    "each option changes something": options_matter,
    "state round-trips mid-run": state_round_trips,
    "same seed, same images": same_seed_same_images,
    "a fresh run sees nothing old": fresh_run_is_fresh,
    "any classes, size and channels": any_classes_and_sizes,
}


def check_subject(subject: Subject) -> Iterator[Finding]:
    """The findings, one check after the other."""
    try:
        subject.play()
    except DfkdError as error:
        yield Finding(subject.name, "all checks", "skipped", f"it cannot be made here: {error}")
        return
    except Exception:  # a stranger's code: each check tells what came of it
        pass
    for check, look in CHECKS.items():
        try:
            yield Finding(subject.name, check, "pass", look(subject))
        except Skip as skip:
            yield Finding(subject.name, check, "skipped", str(skip))
        except Exception as error:
            yield Finding(subject.name, check, "fail", _told(error))


def _told(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, Breach | DfkdError) else f"{type(error).__name__}: {text}"
