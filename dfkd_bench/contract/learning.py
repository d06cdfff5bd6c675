"""The checks of behavior of a distiller: the student learns, and losses with a closed form equal it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dfkd_bench.blocks.kd import kl_divergence
from dfkd_bench.contract.breach import Breach, Skip
from dfkd_bench.contract.episode import make, named_losses
from dfkd_bench.contract.subject import Subject
from dfkd_bench.contract.world import World
from dfkd_bench.stages.bank import SyntheticBatch
from dfkd_bench.stages.base import Distiller

__all__ = ["LEARNING"]

#: Student steps that are enough to come close to the teacher, on tiny networks.
STEPS = 100
_BATCH = 48
#: Of the distance before; right losses leave a hundredth, a softmax over the batch a quarter.
_LEFT = 0.15


def student_learns(subject: Subject) -> str:
    """100 steps on distinct images lower KL(teacher, student) on them."""
    with tempfile.TemporaryDirectory(prefix="dfkd-contract-") as folder:
        world = subject.world(folder)
        stage: Distiller[Any] = make(subject.stage, subject.settings[0], world)  # type: ignore[assignment]
        batch = _lesson(world, _BATCH if subject.pair is None else _BATCH // 3)
        passes: list[int] = []
        handle = world.teacher.register_forward_pre_hook(lambda *_: passes.append(1))
        named_losses(stage, world, batch)
        handle.remove()
        if not passes:
            raise Skip("it does not look at the teacher")
        with torch.no_grad():
            wanted = world.teacher(batch.images)
            before = float(kl_divergence(world.student.eval()(batch.images), wanted))
        # Where nothing is normalized by batch statistics, a transformer for one, the larger rate diverges.
        rate = 1e-2 if world.student.batchnorm_layers else 1e-3
        optimizer = torch.optim.Adam([*world.student.parameters(), *stage.parameters()], rate)
        world.student.train()
        for _ in range(STEPS):
            optimizer.zero_grad(set_to_none=True)
            torch.stack(list(named_losses(stage, world, batch).values())).sum().backward()
            optimizer.step()
        with torch.no_grad():
            # In training mode, as it learned: the statistics that it keeps lag behind.
            after = float(kl_divergence(world.student(batch.images), wanted))
    if not after < _LEFT * before:
        raise Breach(
            f"{STEPS} steps of the student take KL(teacher, student) from {before:.3g} to {after:.3g}: a sign is "
            "flipped, the two see different images, or a softmax is missing or taken over the wrong dimension"
        )
    return f"KL(teacher, student) falls from {before:.3g} to {after:.3g}"


def _lesson(world: World, count: int) -> SyntheticBatch:
    """Distinct images with the teacher's own guesses as targets.

    Always the same ones, so that whoever mixes up images has to answer each of them with the same.
    """
    images = world.batch("lesson", count).images
    with torch.no_grad():
        return SyntheticBatch(images, world.teacher(images).argmax(dim=1))


def losses_equal_their_reference(subject: Subject) -> str:
    """Losses for which the stage declares a closed form of both players' logits equal it, in value and gradient."""
    names: list[str] = []
    for options in subject.settings:
        with tempfile.TemporaryDirectory(prefix="dfkd-contract-") as folder:
            world = subject.world(folder)
            stage: Distiller[Any] = make(subject.stage, options, world)  # type: ignore[assignment]
            world.student.train().requires_grad_(True)
            batch = world.batch("reference")
            losses = named_losses(stage, world, batch)
            with torch.no_grad():
                wanted = world.teacher(batch.images)
            # A second pass in training mode gives the same logits: they depend on the batch's statistics alone.
            references = stage.reference(world.student(batch.images), wanted)
            for name, reference in references.items():
                if name not in losses:
                    raise Breach(f"its reference has '{name}', its losses have {', '.join(losses)}", method="reference")
                _compare(subject.differing(options) + f"its loss '{name}'", losses[name], reference, world)
            names += [name for name in references if name not in names]
    if not names:
        raise Skip("it declares no reference")
    return f"value and gradient of {', '.join(names)}"


def _compare(what: str, loss: Tensor, reference: Tensor, world: World) -> None:
    if not torch.allclose(loss, reference, rtol=1e-3, atol=1e-5):
        raise Breach(f"{what} is {loss.item():.5g}, its reference {reference.item():.5g}")
    parameters = list(world.student.parameters())
    own, wanted = (
        torch.cat([gradient.flatten() for gradient in torch.autograd.grad(each, parameters, retain_graph=True)])
        for each in (loss, reference)
    )
    apart = float((own - wanted).norm() / wanted.norm().clamp(min=1e-12))
    if apart > 1e-2:
        raise Breach(f"{what} has its reference's value, but its gradient is {apart:.0%} of the right one's length off")


LEARNING: dict[str, Callable[[Subject], str]] = {
    "the student learns": student_learns,
    "losses equal their reference": losses_equal_their_reference,
}
