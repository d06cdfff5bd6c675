"""The second half of a round: the student's steps."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from dfkd_bench.blocks.views import crop_and_flip
from dfkd_bench.hooks.registry import StageKind
from dfkd_bench.resume.outcome import DivergedError
from dfkd_bench.runs.bank_filling import BankFilling
from dfkd_bench.runs.parts import RunParts
from dfkd_bench.runs.segments import Segment
from dfkd_bench.stages.bank import SyntheticBatch
from dfkd_bench.stages.network import frozen

__all__ = ["Distillation"]


class Distillation:
    """Owns the student's optimizer, its learning rate and the sums of its losses.

    Args:
        parts: the run's; its stages are made.
        filling: where the images come from.
    """

    def __init__(self, parts: RunParts, filling: BankFilling) -> None:
        self._parts, self._filling = parts, filling
        schedule = parts.spec.schedule
        parameters = [*parts.student.parameters(), *parts.stages.distiller.parameters()]
        self._optimizer = torch.optim.SGD(
            parameters,
            schedule.lr,
            schedule.momentum,
            weight_decay=schedule.weight_decay,
            nesterov=schedule.nesterov,
            fused=parts.device.type == "cuda",  # one launch; on a CPU its last digits would be others
        )
        self._loss_sums = dict[str, Tensor]()
        self._closely = False

    def run(self, segment: Segment) -> None:
        """The student's steps of a segment."""
        parts = self._parts
        parts.emit("phase", {"phase": "distillation", "epoch": segment.epoch + 1})
        for group in self._optimizer.param_groups:
            group["lr"] = self.lr(segment.epoch)
        parts.student.train()
        with parts.ledger.phase("distillation") as cost:
            for step in range(segment.steps):
                self._closely = step == 0
                self._step()
                parts.emit("progress", {"phase": "distillation", "done": step + 1, "total": segment.steps})
            cost.images += segment.steps * parts.spec.schedule.batch_size

    def _step(self) -> None:
        parts = self._parts
        batch = self._next_batch()
        with self._watched("distiller"):
            losses = parts.stages.distiller.losses(parts.student, parts.teacher, batch)
        parts.watch.check(parts.stage("distiller"))
        self._optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        self._optimizer.step()
        parts.watch.mark()
        for name, loss in losses.items():
            self._loss_sums[name] = self._loss_sums.get(name, torch.zeros_like(loss)) + loss.detach()
        with self._watched("synthesizer"):
            parts.stages.synthesizer.after_distill_step(batch)
        parts.watch.check(parts.stage("synthesizer"))

    def _watched(self, kind: StageKind) -> AbstractContextManager[None]:
        """Around a stage's turn in the first step of a segment: what the weights are, past torch's own counting."""
        return self._parts.watch.untouched(self._parts.stage(kind)) if self._closely else nullcontext()

    def _next_batch(self) -> SyntheticBatch:
        parts, filling = self._parts, self._filling
        size = parts.spec.schedule.batch_size
        if parts.stages.synthesizer.stream:
            with self._watched("synthesizer"), parts.ledger.aside("synthesis") as cost, frozen(parts.student):
                batch = parts.stages.synthesizer.sample(size)
                cost.images += len(batch)
            parts.watch.check(parts.stage("synthesizer"))
            filling.count(synthesized=len(batch))
            return batch
        bank = filling.bank
        index = bank.draw_index(size)
        images = crop_and_flip(bank.images[index], parts.card.transform, parts.streams["order"])
        soft = None if bank.soft is None else bank.soft[index]
        return SyntheticBatch(images.float() / 255, bank.targets[index], soft=soft)

    def lr(self, epoch: int) -> float:
        """The learning rate in an epoch, counted from 0."""
        schedule = self._parts.spec.schedule
        if schedule.lr_schedule == "constant":
            return schedule.lr
        return schedule.lr_min + (schedule.lr - schedule.lr_min) * (1 + math.cos(math.pi * epoch / schedule.epochs)) / 2

    def end_epoch(self, epoch: int) -> dict[str, float]:
        """The mean of each loss over an epoch, counted from 0, that is over.

        Raises:
            DivergedError: one of them is not finite.
        """
        steps = self._parts.spec.schedule.steps_per_epoch
        losses = {name: float(total) / steps for name, total in self._loss_sums.items()}
        self._loss_sums = {}
        bad = [name for name, loss in losses.items() if not math.isfinite(loss)]
        if bad:
            raise DivergedError(f"the loss '{bad[0]}' is {losses[bad[0]]} in epoch {epoch + 1}")
        return losses

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""
        return {
            "student": self._parts.student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "loss_sums": self._loss_sums,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._parts.student.load_state_dict(state["student"])
        self._parts.watch.mark()
        self._optimizer.load_state_dict(state["optimizer"])
        self._loss_sums = state["loss_sums"]
