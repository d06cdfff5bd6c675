"""A stage played through what a run does with it: the steps in order, and the tensors that came out of each."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from dfkd_bench.blocks.kd import kl_divergence
from dfkd_bench.contract.world import World
from dfkd_bench.stages.bank import SyntheticBatch
from dfkd_bench.stages.base import Augmenter, Distiller, Filter, Round, Stage, Synthesizer
from dfkd_bench.stages.network import frozen
from dfkd_bench.stages.options import StageOptions

__all__ = ["Breach", "Episode", "Trace", "play", "same"]

Trace = list[tuple[Tensor, ...]]


class Breach(Exception):  # noqa: N818 - a word of the contract
    """A stage did what the contract forbids; the text says what."""


@dataclass
class Episode:
    """What a stage did, step by step.

    Attributes:
        trace: the tensors of each step.
        student_passes: passes through the student that the stage itself made.
        student_gradient: largest absolute gradient that came back through the student to the images.
    """

    trace: Trace = field(default_factory=list)
    student_passes: int = 0
    student_gradient: float = 0.0


def same(one: Trace, other: Trace) -> bool:
    """Whether two traces are equal, bit for bit."""
    if [len(step) for step in one] != [len(step) for step in other]:
        return False
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return all(torch.equal(a, b) for a, b in pairs)


def play(stage_class: type[Stage[Any]], options: StageOptions, world: World, *, cut: int | None = None) -> Episode:
    """Play a stage from its making to its end.

    Args:
        stage_class: of any of the four kinds.
        options: its options.
        world: where; its student learns in the course of it.
        cut: before this step the stage is stored, made anew and given its state, as in a run that was killed.

    Raises:
        Breach: a batch is not as it should be, or a network was changed.
    """
    wants = None
    if issubclass(stage_class, Synthesizer):
        wants = stage_class.images_wanted(options, world.card)
    context = world.context(wants=wants)
    stage = stage_class(options, context)
    episode = Episode()
    for index, step in enumerate(_STEPS[_kind(stage_class)]):
        if index == cut:
            context = world.context(torch.Generator().manual_seed(987), wants=wants)
            stage = _remade(stage, stage_class(options, context))
        before = world.weights("teacher")
        episode.trace.append(tuple(t.detach().clone() for t in step(stage, world, episode)))
        _untouched(before, world.weights("teacher"))
    return episode


def _kind(stage_class: type[Stage[Any]]) -> type[Stage[Any]]:
    return next(base for base in _STEPS if issubclass(stage_class, base))


def _remade(old: Stage[Any], new: Stage[Any]) -> Stage[Any]:
    file = io.BytesIO()
    torch.save(old.state_dict(), file)
    file.seek(0)
    new.load_state_dict(torch.load(file, weights_only=True))
    new.context.generator.set_state(old.context.generator.get_state())
    return new


def _untouched(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name, value in before.items():
        now = after[name]
        if not (torch.equal(value, now) if isinstance(value, Tensor) else value == now):
            network, _, what = name.partition(".")
            raise Breach(f"it changed the {network}'s {what}")


@contextmanager
def _looked_at(world: World, episode: Episode) -> Iterator[None]:
    """Inside, the student is as a stage finds it, and what the stage does with it is noted."""

    def watch(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        episode.student_passes += 1
        if inputs[0].requires_grad:
            inputs[0].register_hook(note)

    def note(gradient: Tensor) -> None:
        episode.student_gradient = max(episode.student_gradient, float(gradient.abs().max()))

    before = world.weights("student")
    handle = world.student.body.register_forward_pre_hook(watch)
    try:
        with frozen(world.student):
            yield
    finally:
        handle.remove()
    _untouched(before, world.weights("student"))


def _checked(batch: SyntheticBatch, world: World, sourced: int | None = None) -> SyntheticBatch:
    try:
        batch.check(world.card.image_shape, world.card.num_classes, sourced=sourced)
    except ValueError as error:
        raise Breach(str(error)) from error
    return batch


def _synthesize(index: int, warmup: bool) -> Callable[..., tuple[Tensor, ...]]:
    def step(stage: Synthesizer[Any], world: World, episode: Episode) -> tuple[Tensor, ...]:
        with _looked_at(world, episode):
            batch = _checked(stage.synthesize(Round(index, warmup)), world)
        return batch.images, batch.targets

    return step


def _distil(stage: Synthesizer[Any], world: World, episode: Episode) -> tuple[Tensor, ...]:
    """The student takes a step, on the stage's own images if it is a stream; the stage learns beside it."""
    if stage.stream:
        with _looked_at(world, episode):
            batch = _checked(stage.sample(7), world)
    else:
        batch = world.batch("distill")
    with torch.no_grad():
        wanted = world.teacher(batch.images)
    _descend(list(world.student.parameters()), kl_divergence(world.student.train()(batch.images), wanted))
    before = world.weights("student")
    stage.after_distill_step(batch)
    _untouched(before, world.weights("student"))
    world.student.eval()
    return (batch.images, batch.targets)


def _descend(parameters: list[nn.Parameter], loss: Tensor) -> None:
    for parameter in parameters:
        parameter.grad = None
    loss.backward()
    with torch.no_grad():
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.sub_(parameter.grad, alpha=0.05)


def _augment(name: str, *, prepare: bool = False) -> Callable[..., tuple[Tensor, ...]]:
    def step(stage: Augmenter[Any], world: World, episode: Episode) -> tuple[Tensor, ...]:
        source = world.batch(name)
        with _looked_at(world, episode):
            if prepare:
                stage.prepare(world.bank())
            made = _checked(stage.augment(source), world, sourced=len(source))
        assert made.source is not None
        return made.images, made.targets, made.source, *([] if made.soft is None else [made.soft])

    return step


def _keep(name: str) -> Callable[..., tuple[Tensor, ...]]:
    def step(stage: Filter[Any], world: World, episode: Episode) -> tuple[Tensor, ...]:
        source = world.batch(name)
        augmented = world.variants(source)
        with _looked_at(world, episode), torch.no_grad():
            keep = stage.keep(augmented, source)
        if keep.dtype != torch.bool or keep.shape != augmented.targets.shape:
            raise Breach(f"it answers {keep.dtype} {list(keep.shape)}, not bool [{len(augmented)}]")
        return (keep,)

    return step


def _teach(name: str) -> Callable[..., tuple[Tensor, ...]]:
    def step(stage: Distiller[Any], world: World, episode: Episode) -> tuple[Tensor, ...]:
        world.student.train().requires_grad_(True)
        seen: list[int] = []
        handle = world.student.body.register_forward_pre_hook(lambda *_: seen.append(1))
        losses = stage.losses(world.student, world.teacher, world.batch(name))
        handle.remove()
        episode.student_passes += len(seen)
        _scalars(losses)
        own = list(stage.parameters())
        total = torch.stack(list(losses.values())).sum()
        students = list(world.student.parameters())
        if total.requires_grad:
            _descend([*students, *own], total)
            gradients = [p.grad.abs().max() for p in students if p.grad is not None]
            episode.student_gradient = max([episode.student_gradient, *map(float, gradients)])
        world.student.eval()
        return (*losses.values(), *own, *students)

    return step


def _scalars(losses: dict[str, Tensor]) -> None:
    for name, loss in losses.items():
        if loss.ndim != 0:
            raise Breach(f"its loss '{name}' is no scalar but {list(loss.shape)}")
        if not bool(torch.isfinite(loss)):
            raise Breach(f"its loss '{name}' is {float(loss)}")


#: Two warm-up rounds' worth is not needed; two main rounds are, since much is reset or remembered between rounds.
_STEPS: dict[type[Stage[Any]], tuple[Callable[..., tuple[Tensor, ...]], ...]] = {
    Synthesizer: (
        _synthesize(0, warmup=True),
        _distil,
        _synthesize(1, warmup=False),
        _distil,
        _synthesize(2, warmup=False),
        _distil,
        _synthesize(3, warmup=False),
    ),
    Augmenter: (_augment("one", prepare=True), _augment("two")),
    Filter: (_keep("one"), _keep("two")),
    Distiller: (_teach("one"), _teach("two"), _teach("three")),
}
