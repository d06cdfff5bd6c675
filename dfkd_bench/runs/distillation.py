"""The second half of a round: the student's steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from dfkd_bench.blocks.optimizers import make_optimizer
from dfkd_bench.blocks.views import crop_and_flip
from dfkd_bench.hooks.registry import StageKind
from dfkd_bench.resume.outcome import DivergedError
from dfkd_bench.runs.bank_filling import BankFilling, check_answer
from dfkd_bench.runs.parts import RunParts
from dfkd_bench.runs.segments import Segment
from dfkd_bench.stages.bank import SyntheticBatch
from dfkd_bench.stages.network import frozen

__all__ = ["Distillation"]

# Batches drawn for one of the student's: a filter that leaves fewer than one image in fifty selects nothing.
_MOST_DRAWS = 50


class Distillation:
    """Owns the student's optimizer, its learning rate and the sums of its losses.

    Args:
        parts: the run's; its stages are made.
        filling: where the images come from.
    """

    def __init__(self, parts: RunParts, filling: BankFilling) -> None:
        self._parts, self._filling = parts, filling
        schedule = parts.spec.schedule
        self._captures = parts.graphs.capturer is not None and parts.stages.distiller.capturable
        self._batch: SyntheticBatch | None = None
        self._static = dict[tuple[Any, ...], SyntheticBatch]()
        # In a captured step a number would stay what it was.
        self._lr = torch.tensor(schedule.lr, device=parts.device) if self._captures else None
        parameters = [*parts.student.parameters(), *parts.stages.distiller.parameters()]
        # Fused is one launch; on a CPU its last digits would be others.
        self._optimizer = make_optimizer(parameters, schedule, fused=parts.device.type == "cuda")
        self._loss_sums = dict[str, Tensor]()
        self._closely = False

    def run(self, segment: Segment) -> None:
        """The student's steps of a segment."""
        parts = self._parts
        parts.emit("phase", {"phase": "distillation", "epoch": segment.epoch + 1})
        lr = self.lr(segment.epoch) if self._lr is None else self._lr.fill_(self.lr(segment.epoch))
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        parts.student.train()
        with parts.ledger.phase("distillation") as cost:
            for step in range(segment.steps):
                # Where steps are captured, none of them may wait for the device.
                self._closely = step == 0 and not self._captures
                self._step()
                parts.emit("progress", {"phase": "distillation", "done": step + 1, "total": segment.steps})
            cost.images += segment.steps * parts.spec.schedule.batch_size

    def _step(self) -> None:
        parts = self._parts
        batch = self._batch = self._next_batch()
        losses = self._captured(batch)() if self._captures else self._learn()
        parts.watch.mark()
        for name, loss in losses.items():
            self._loss_sums[name] = self._loss_sums.get(name, torch.zeros_like(loss)) + loss.detach()
        with self._watched("synthesizer"):
            parts.stages.synthesizer.after_distill_step(batch)
        parts.watch.check(parts.stage("synthesizer"))

    def _watched(self, kind: StageKind) -> AbstractContextManager[None]:
        """Around a stage's turn in the first step of a segment: what the weights are, past torch's own counting."""
        return self._parts.watch.untouched(self._parts.stage(kind)) if self._closely else nullcontext()

    def _learn(self) -> dict[str, Tensor]:
        parts = self._parts
        assert self._batch is not None
        with self._watched("distiller"):
            losses = parts.stages.distiller.losses(parts.student, parts.teacher, self._batch)
        parts.watch.check(parts.stage("distiller"))
        self._optimizer.zero_grad(set_to_none=True)
        torch.stack(list(losses.values())).sum().backward()
        self._optimizer.step()
        return losses

    def _captured(self, batch: SyntheticBatch) -> Callable[[], dict[str, Tensor]]:
        """The step of a batch that is brought to where the step that was captured with such a one looks for it."""
        given = [part for part in (batch.images, batch.targets, batch.soft) if part is not None]
        key = tuple((part.shape, part.dtype) for part in given)
        if key not in self._static:
            soft = None if batch.soft is None else batch.soft.clone()
            self._static[key] = SyntheticBatch(batch.images.clone(), batch.targets.clone(), soft=soft)
        self._batch = self._static[key]
        kept = (self._batch.images, self._batch.targets, self._batch.soft)
        for place, part in zip([each for each in kept if each is not None], given, strict=True):
            place.copy_(part)
        step = self._parts.graphs.step(self._learn, key)

        def learn() -> dict[str, Tensor]:
            losses = step()
            # Torch counts what is written to a tensor, and does not see what a graph writes.
            torch.autograd.graph.increment_version(self._parts.student.parameters())
            return losses

        return learn

    def _next_batch(self) -> SyntheticBatch:
        if not self._parts.stages.filter.judges_batches():
            return self._draw()
        size, drawn, selected = self._parts.spec.schedule.batch_size, 0, 0
        parts = list[SyntheticBatch]()
        while selected < size:
            if drawn >= _MOST_DRAWS * size:
                raise ValueError(
                    f"the {self._parts.stage('filter')} selected {selected} of {drawn:,} images, too few for the "
                    f"student's batch of {size}: loosen it"
                )
            batch = self._draw()
            parts.append(batch.select(self._selection(batch)))
            drawn, selected = drawn + len(batch), selected + len(parts[-1])
        self._filling.count(drawn=drawn, selected=selected)
        return SyntheticBatch.joined(parts).select(slice(size))

    def _selection(self, batch: SyntheticBatch) -> Tensor:
        parts = self._parts
        aside = parts.ledger.aside("filtering")
        with self._watched("filter"), aside as cost, frozen(parts.student), torch.no_grad():
            selection = parts.stages.filter.select(batch)
            cost.images += len(batch)
        parts.watch.check(parts.stage("filter"))
        check_answer(selection, batch)
        return selection

    def _draw(self) -> SyntheticBatch:
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
        steps = self._parts.spec.schedule.steps_in(epoch)
        losses = {name: float(total) / steps for name, total in self._loss_sums.items()}
        self._loss_sums = {}
        bad = [name for name, loss in losses.items() if not math.isfinite(loss)]
        if bad:
            raise DivergedError(f"the loss '{bad[0]}' is {losses[bad[0]]} in epoch {epoch + 1}")
        return losses

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume."""
        return {
            "student": self._parts.student.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "loss_sums": self._loss_sums,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""
        self._parts.student.load_state_dict(state["student"])
        self._parts.watch.mark()
        self._optimizer.load_state_dict(state["optimizer"])
        self._loss_sums = state["loss_sums"]
