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
from dfkd_bench.contract.breach import IMAGES, RUNS, UNTOUCHED, Breach
from dfkd_bench.contract.watch import Watch
from dfkd_bench.contract.world import World
from dfkd_bench.stages.bank import ImageBank, SyntheticBatch, quantize
from dfkd_bench.stages.base import Augmenter, Distiller, Filter, Round, Stage, Synthesizer
from dfkd_bench.stages.network import frozen
from dfkd_bench.stages.options import StageOptions
from dfkd_bench.stages.seeds import stream

__all__ = ["Episode", "Trace", "equal", "kept", "make", "named_losses", "play", "same", "untouched_batch"]

Trace = list[tuple[Tensor, ...]]

#: On a GPU: how far apart two equal numbers may be, and of how many numbers it may be more.
_ROUNDING, _FEW = 1e-3, 0.02


@dataclass
class Episode:
    """What a stage did, step by step.

    Attributes:
        watch: how it came to its images.
        trace: the tensors of each step.
        student_passes: passes through the student that the stage itself made.
        student_gradient: largest absolute gradient that came back through the student to the images.
        alike: what is said of images that are all the same; empty if they are not.
    """

    watch: Watch
    trace: Trace = field(default_factory=list)
    student_passes: int = 0
    student_gradient: float = 0.0
    alike: str = ""


def equal(one: Trace, other: Trace) -> bool:
    """Whether two traces are equal, bit for bit."""
    return _all_pairs(one, other, torch.equal)


def same(one: Trace, other: Trace) -> bool:
    """Whether two traces come of the same work: equal bit for bit on a CPU, and up to rounding on a GPU."""
    return _all_pairs(one, other, _close)


def _all_pairs(one: Trace, other: Trace, alike: Callable[[Tensor, Tensor], bool]) -> bool:
    if [len(step) for step in one] != [len(step) for step in other]:
        return False
    return all(alike(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True))


def _on_gpu(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _close(one: Tensor, other: Tensor) -> bool:
    if not _on_gpu(one) or one.shape != other.shape or torch.equal(one, other):
        return torch.equal(one, other)
    # Some kernels add in another order each time, and where a gradient is nearly zero, Adam takes a whole step of it.
    apart = (one.double() - other.double()).abs() > _ROUNDING * (1 + other.double().abs())
    return float(apart.double().mean()) <= _FEW


def make(stage_class: type[Stage[Any]], options: StageOptions, world: World) -> Stage[Any]:
    """The stage in a world, with its own random stream at its beginning."""
    return _make(stage_class, options, world, None)


def _make(
    stage_class: type[Stage[Any]], options: StageOptions, world: World, generator: torch.Generator | None
) -> Stage[Any]:
    wants = None
    if issubclass(stage_class, Synthesizer):
        wants = stage_class.images_wanted(options, world.card)
    return stage_class(options, world.context(generator, wants=wants))


def play(stage_class: type[Stage[Any]], options: StageOptions, world: World, *, cut: int | None = None) -> Episode:
    """Play a stage from its making to its end.

    Args:
        stage_class: of any of the four kinds.
        options: its options.
        world: where; its student learns in the course of it.
        cut: before this step the stage is stored, made anew and given its state, as in a run that was killed.

    Raises:
        Breach: a batch is not as it should be, or a network or what the stage was given was changed.
    """
    stage = make(stage_class, options, world)
    episode = Episode(Watch(world))
    for index, step in enumerate(_STEPS[_kind(stage_class)]):
        if index == cut:
            stage = _remade(stage, _make(stage_class, options, world, stream(987, "contract/remade", world.device)))
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
    # As a run does: what it stored comes back on the CPU.
    new.load_state_dict(torch.load(file, map_location="cpu", weights_only=True))
    new.context.generator.set_state(old.context.generator.get_state())
    return new


def _untouched(before: dict[str, Any], after: dict[str, Any]) -> None:
    for name, value in before.items():
        now = after[name]
        if not (torch.equal(value, now) if isinstance(value, Tensor) else value == now):
            network, _, what = name.partition(".")
            raise Breach(f"it changed the {network}'s {what}", check=UNTOUCHED)


@contextmanager
def untouched_batch(batch: SyntheticBatch, method: str) -> Iterator[None]:
    """What a stage is given is afterwards as it was.

    Raises:
        Breach: it is not.
    """
    fields = {name: value for name, value in vars(batch).items() if isinstance(value, Tensor)}
    copies = {name: value.clone() for name, value in fields.items()}
    yield
    for name, value in fields.items():
        if not torch.equal(copies[name], value):
            text = f"{method} changed the {name} of the batch that it was given, in place"
            raise Breach(text, check=UNTOUCHED, method=method)


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
        with frozen(world.student), episode.watch.on():
            yield
    finally:
        handle.remove()
    _untouched(before, world.weights("student"))


def _checked(
    batch: SyntheticBatch, world: World, episode: Episode, method: str, sourced: int | None = None
) -> SyntheticBatch:
    if not isinstance(batch, SyntheticBatch):
        raise Breach(f"{method} returns {_a(batch)}, not a SyntheticBatch", check=RUNS, method=method)
    try:
        batch.check(world.card.image_shape, world.card.num_classes, sourced=sourced)
    except ValueError as error:
        raise Breach(str(error), check=IMAGES, method=method) from error
    shown = quantize(batch.images.detach())
    if len(shown) > 1 and bool((shown == shown[:1]).all()):
        episode.alike = f"all {len(shown)} images that {method} returns are {'the same' if shown.any() else 'black'}"
    return batch


def _a(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _synthesize(index: int, warmup: bool) -> Callable[..., tuple[Tensor, ...]]:
    def step(stage: Synthesizer[Any], world: World, episode: Episode) -> tuple[Tensor, ...]:
        with _looked_at(world, episode):
            batch = _checked(stage.synthesize(Round(index, warmup)), world, episode, "synthesize")
        return batch.images, batch.targets

    return step


def _distil(stage: Synthesizer[Any], world: World, episode: Episode) -> tuple[Tensor, ...]:
    """The student takes a step, on the stage's own images if it is a stream; the stage learns beside it."""
    if stage.stream:
        with _looked_at(world, episode):
            batch = _checked(stage.sample(7), world, episode, "sample")
    else:
        batch = world.batch("distill")
    with torch.no_grad():
        wanted = world.teacher(batch.images)
    _descend(list(world.student.parameters()), kl_divergence(world.student.train()(batch.images), wanted))
    before = world.weights("student")
    with episode.watch.on(), untouched_batch(batch, "after_distill_step"):
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
                _prepare(stage, world.bank())
            with untouched_batch(source, "augment"):
                made = stage.augment(source)
        _checked(made, world, episode, "augment", sourced=len(source))
        assert made.source is not None
        return made.images, made.targets, made.source, *([] if made.soft is None else [made.soft])

    return step


def _prepare(stage: Augmenter[Any], bank: ImageBank) -> None:
    before = bank.images.clone()
    stage.prepare_fully(bank)
    if not torch.equal(before, bank.images):
        raise Breach("prepare changed the bank's images", check=UNTOUCHED, method="prepare")


def _keep(name: str) -> Callable[..., tuple[Tensor, ...]]:
    def step(stage: Filter[Any], world: World, episode: Episode) -> tuple[Tensor, ...]:
        source = world.batch(name)
        augmented = world.variants(source)
        with _looked_at(world, episode):
            return kept(stage, augmented, source), selected(stage, source)

    return step


def kept(stage: Filter[Any], augmented: SyntheticBatch, source: SyntheticBatch) -> Tensor:
    """Which augmented images a filter keeps, bool [N].

    Raises:
        Breach: it is something else, or what the filter was given was changed.
    """
    with torch.no_grad(), untouched_batch(augmented, "keep"), untouched_batch(source, "keep"):
        return _answer("keep", stage.keep(augmented, source), augmented)


def selected(stage: Filter[Any], batch: SyntheticBatch) -> Tensor:
    """Which of a student's images a filter selects, bool [N].

    Raises:
        Breach: as for `kept`.
    """
    with torch.no_grad(), untouched_batch(batch, "select"):
        return _answer("select", stage.select(batch), batch)


def _answer(method: str, answer: object, images: SyntheticBatch) -> Tensor:
    if not isinstance(answer, Tensor):
        raise Breach(f"{method} returns {_a(answer)}, not a tensor", check=RUNS, method=method)
    if answer.dtype != torch.bool or answer.shape != images.targets.shape:
        found = f"{answer.dtype} {list(answer.shape)}"
        raise Breach(f"it answers {found}, not bool [{len(images)}]", check=IMAGES, method=method)
    return answer


def _teach(name: str) -> Callable[..., tuple[Tensor, ...]]:
    def step(stage: Distiller[Any], world: World, episode: Episode) -> tuple[Tensor, ...]:
        world.student.train().requires_grad_(True)
        modes: list[bool] = []
        handle = world.student.body.register_forward_pre_hook(lambda body, _: modes.append(body.training))
        with episode.watch.on():
            losses = named_losses(stage, world, world.batch(name))
        handle.remove()
        episode.student_passes += len(modes)
        if not world.student.training or (modes and not any(modes)):
            raise Breach("it puts the student into evaluation mode: it is to learn in training mode", check=UNTOUCHED)
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


def named_losses(stage: Distiller[Any], world: World, batch: SyntheticBatch) -> dict[str, Tensor]:
    """What a distiller answers, checked.

    Raises:
        Breach: it is no dict of finite scalars, or the batch was changed.
    """
    with untouched_batch(batch, "losses"):
        losses = stage.losses(world.student, world.teacher, batch)
    if not isinstance(losses, dict) or not all(isinstance(loss, Tensor) for loss in losses.values()):
        raise Breach(f"losses returns {_a(losses)}, not a dict of named scalar tensors", check=RUNS)
    if not losses:
        raise Breach("losses returns no loss at all: the student has nothing to learn from", check=RUNS)
    for name, loss in losses.items():
        if loss.ndim != 0:
            raise Breach(f"its loss '{name}' is no scalar but {list(loss.shape)}", check=RUNS)
        if not bool(torch.isfinite(loss)):
            raise Breach(f"its loss '{name}' is {float(loss)}", check=IMAGES)
    return losses


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
