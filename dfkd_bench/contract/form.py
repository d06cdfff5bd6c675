"""The checks of form, for stages of every kind: what a run relies on, whatever the method."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import torch

from dfkd_bench.contract.breach import IMAGES, RUNS, UNTOUCHED, Breach, Skip, sentence_of
from dfkd_bench.contract.episode import Episode, equal, same
from dfkd_bench.contract.roles import ADVERSARY, options_of
from dfkd_bench.contract.subject import Subject
from dfkd_bench.contract.watch import MUCH
from dfkd_bench.contract.world import make_card
from dfkd_bench.errors import DfkdError
from dfkd_bench.stages.base import Distiller, Synthesizer
from dfkd_bench.stages.options import StageOptions

__all__ = ["FORM"]


def comes_through(subject: Subject) -> str:
    """Every call of a run comes back, with what it should be."""
    for _ in subject.every_setting():
        pass
    return ""


def finite_and_in_range(subject: Subject) -> str:
    """Images stay finite and in [0, 1], by their making and not by a clamp; they differ."""
    for options, episode in subject.every_setting():
        which, watch = subject.differing(options), episode.watch
        if episode.alike:
            raise Breach(f"{which}{episode.alike}")
        if watch.shown > MUCH:
            raise Breach(
                f"{which}{watch.shown:.0%} of the pixels that it shows a network lie outside [0, 1]: a network takes "
                "images in [0, 1] and normalizes them itself"
            )
        if watch.clamped > MUCH and issubclass(subject.stage, Synthesizer):
            raise Breach(
                f"{which}{watch.clamped:.0%} of the pixels that it clamps to [0, 1] lie outside: they are made in "
                "another range, such as [-1, 1], or still normalized"
            )
    return ""


def networks_untouched(subject: Subject) -> str:
    """The teacher's weights, BatchNorm statistics and modes are as before; so are the student's, but for its loss."""
    # The episode compares them, and the batches that it hands over, around every call: to come through is to pass.
    for _ in subject.every_setting():
        pass
    return ""


def _looking(subject: Subject) -> Iterator[tuple[StageOptions, Episode]]:
    """Settings with what they do, and those with an adversary's weight where it is off by default."""
    for options in subject.settings:
        yield options, subject.once(options)
        for name in options_of(subject.stage, ADVERSARY):
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
    claims = options_of(subject.stage, ADVERSARY)
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
            changes = changes or not equal(episode.trace, subject.play(options, student_seed=77).trace)
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
                differs = not equal(subject.once(options).trace, subject.once(other).trace)
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
    """Stored and made anew in the middle of a run, the stage continues as if nothing had happened."""
    for index, options in enumerate(subject.settings):
        whole = subject.once(options)
        # At every step in the first setting, once in the middle in the others.
        cuts = range(1, len(whole.trace)) if index == 0 else [len(whole.trace) // 2 + 1]
        for cut in cuts:
            if not same(whole.trace, subject.play(options, cut=cut).trace):
                text = f"after its state was stored before step {cut + 1} it continues differently"
                raise Breach(text, method="state_dict")
    return ""


def same_seed_same_images(subject: Subject) -> str:
    """What it does depends on its own random stream alone."""
    traces = []
    for unrelated in (1, 2):
        with torch.random.fork_rng(devices=[subject.device] if subject.device.type == "cuda" else []):
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
    if subject.pair is not None:
        raise Skip("tried on the kit's own networks alone: these take images of any size")
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
            raise Breach(f"with {what}: {sentence_of(error)}", method=getattr(error, "method", None)) from error
    return refused


FORM: dict[str, Callable[[Subject], str]] = {
    RUNS: comes_through,
    IMAGES: finite_and_in_range,
    UNTOUCHED: networks_untouched,
    "the student is not the teacher": student_is_not_the_teacher,
    "the adversary is alive": adversary_is_alive,
    "each option changes something": options_matter,
    "state round-trips mid-run": state_round_trips,
    "same seed, same images": same_seed_same_images,
    "a fresh run sees nothing old": fresh_run_is_fresh,
    "any classes, size and channels": any_classes_and_sizes,
}
