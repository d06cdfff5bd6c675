"""The checks of behavior: on tiny networks, a stage does what its kind is for, and no weight pulls the wrong way.

Each was tried on stages that are right and on ones with a planted bug; what it asks lies well between the two.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn import functional as F

from dfkd_bench.blocks.batchnorm import bn_loss
from dfkd_bench.blocks.kd import kl_divergence
from dfkd_bench.contract.alternatives import changed
from dfkd_bench.contract.breach import Breach, Skip
from dfkd_bench.contract.episode import make
from dfkd_bench.contract.roles import ADVERSARY, BATCHNORM, Role, options_of
from dfkd_bench.contract.subject import Subject
from dfkd_bench.contract.world import World, make_card
from dfkd_bench.stages.bank import SyntheticBatch
from dfkd_bench.stages.base import Round, Synthesizer
from dfkd_bench.stages.network import frozen
from dfkd_bench.stages.options import StageOptions

__all__ = ["SYNTHESIS"]

#: Synthesis steps that are many, on tiny networks, and a learning rate with which they lead somewhere.
STEPS = 30
_LEARNING_RATE = 0.02
#: A weight that shows beside the others.
_RAISED = 10.0
_CLASSES = 5


def what_it_optimizes_moves(subject: Subject) -> str:
    """What is given gradients again and again is stepped."""
    for options, episode in subject.every_setting():
        idle = episode.watch.idle()
        if idle:
            raise Breach(
                f"{subject.differing(options)}a tensor of shape {list(idle[0])} asks for gradients, is given them and "
                "never changes: no optimizer has it, or none takes a step"
            )
    return ""


def targets_are_met(subject: Subject) -> str:
    """More steps lower the teacher's cross-entropy on the targets that come with the images."""
    if not subject.stage.gives_targets:  # type: ignore[attr-defined]
        raise Skip("its images claim no classes")
    first = subject.settings[0]
    if _stretched(first, STEPS) is None:
        raise Skip("it has no count of steps that could be raised")
    seen = ""
    for options in _undisturbed(subject, first):
        # From the same start, so that a stage whose steps have no effect gives the same images twice.
        few, many = (_measured(subject, _stretched(options, count) or options, _teacher_loss) for count in (1, STEPS))
        # A teacher that already sees the targets, such as in its own guesses, cannot see them much better.
        if many < max(0.95 * few, 0.25 * math.log(_CLASSES)):
            return f"the teacher's cross-entropy goes from {few:.3g} to {many:.3g}"
        seen = seen or f"{many:.3g}, after one it was {few:.3g}"
    raise Breach(
        f"after {STEPS} steps the teacher's cross-entropy on the returned targets is {seen}: the targets are not the "
        "images', a sign is flipped, or the steps are lost"
    )


def _undisturbed(subject: Subject, options: StageOptions) -> Iterator[StageOptions]:
    """The options, and if they may outweigh the targets on networks this small, without BatchNorm and adversary."""
    yield options
    for role in (BATCHNORM, ADVERSARY):
        for name in options_of(subject.stage, role):
            if getattr(options, name):
                options = changed(options, **{name: 0.0}) or options
                yield options


def weights_pull_the_right_way(subject: Subject) -> str:
    """More adversary, more disagreement of student and teacher; more BatchNorm loss, less distance of statistics."""
    found: list[str] = []
    for role, pull in _PULLS.items():
        found += [_pull(subject, name, *pull) for name in options_of(subject.stage, role)]
    if not found:
        raise Skip("none of its options is a weight with a known effect")
    return "; ".join(found)


Measure = Callable[[World, SyntheticBatch], float]


def _pull(subject: Subject, name: str, measure: Measure, least: float, what: str) -> str:
    """Compares weight 0 with larger ones, as the first settings are and with each other weight switched off."""
    seen: list[tuple[float, float]] = []
    for options in _where_it_counts(subject, name):
        without, raised = (changed(options, **{name: weight}) for weight in (0.0, _RAISED))
        if without is None or raised is None or subject.lacking(raised) is not None:
            continue
        before = _measured(subject, without, measure)
        after = _measured(subject, raised, measure)
        if _change(before, after) / least >= 1:
            return f"'{name}' moves {what} from {before:.3g} to {after:.3g}"
        seen.append((before, after))
    if not seen:
        return f"'{name}' takes no other value here"
    before, after = min(seen, key=lambda pair: _change(*pair) / least)
    if _change(before, after) / least < -0.5:
        raise Breach(
            f"a larger '{name}' moves {what} the wrong way, from {before:.3g} to {after:.3g}: a sign is flipped"
        )
    raise Breach(f"a larger '{name}' leaves {what} where it is, {before:.3g} and {after:.3g}: its gradient is lost")


def _change(before: float, after: float) -> float:
    """Relative."""
    return (after - before) / max(abs(before), 1e-9)


def _where_it_counts(subject: Subject, name: str) -> Iterator[StageOptions]:
    first = _stretched(subject.settings[0], STEPS) or subject.settings[0]
    yield first
    # Another weight may outweigh it, or shut it off.
    for other, value in first:
        if other != name and isinstance(value, float) and value:
            off = changed(first, **{other: 0.0})
            if off is not None:
                yield off


def _measured(subject: Subject, options: StageOptions, measure: Measure) -> float:
    """The measure of a round's images, or of what a stream gives after as many steps."""
    card = {} if subject.pair else {"card": make_card(_CLASSES)}
    with tempfile.TemporaryDirectory(prefix="dfkd-contract-") as folder:
        world = subject.world(folder, **card)
        stage: Synthesizer[Any] = make(subject.stage, options, world)  # type: ignore[assignment]
        rounds = STEPS if stage.stream and _stretched(options, STEPS) is None else 1
        with frozen(world.student):
            for index in range(rounds):
                batch = stage.synthesize(Round(index, warmup=False))
            return measure(world, stage.sample(32) if stage.stream else batch)


def _stretched(options: StageOptions, count: int) -> StageOptions | None:
    """The options with this many steps; None if none of them counts steps."""
    names = [name for name, value in options if "steps" in name.split("_") and isinstance(value, int)]
    if not names:
        return None
    rates = [name for name, value in options if name == "lr" and isinstance(value, float) and value < _LEARNING_RATE]
    return changed(options, **dict.fromkeys(names, count), **dict.fromkeys(rates, _LEARNING_RATE))


@torch.no_grad()
def _teacher_loss(world: World, batch: SyntheticBatch) -> float:
    return float(F.cross_entropy(world.teacher(batch.images), batch.targets))


@torch.no_grad()
def _disagreement(world: World, batch: SyntheticBatch) -> float:
    return float(kl_divergence(world.student(batch.images), world.teacher(batch.images)))


@torch.no_grad()
def _statistics(world: World, batch: SyntheticBatch) -> float:
    return float(bn_loss(world.teacher.observe(batch.images, batchnorm=True).batchnorm))


#: What each kind of weight moves, and by which part of it at least. Where only the rounding differs, a few steps of
#: Adam already make a fifth of a difference in the disagreement, which is small.
_PULLS: dict[Role, tuple[Measure, float, str]] = {
    ADVERSARY: (_disagreement, 0.3, "KL(teacher, student) on its images"),
    BATCHNORM: (_statistics, -0.1, "the distance of its images' BatchNorm statistics"),
}

SYNTHESIS: dict[str, Callable[[Subject], str]] = {
    "what it optimizes moves": what_it_optimizes_moves,
    "more steps meet the targets": targets_are_met,
    "its weights pull the right way": weights_pull_the_right_way,
}
