"""What a run does, in reading order: synthesise, augment, filter, keep, distil, evaluate."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from dfkd_bench.bank import ImageBank, SyntheticBatch
from dfkd_bench.blocks.views import crop_and_flip
from dfkd_bench.checkpoint import Checkpoint
from dfkd_bench.datasets.access import open_dataset
from dfkd_bench.datasets.guard import sealed
from dfkd_bench.environment import Execution
from dfkd_bench.errors import DfkdError
from dfkd_bench.evaluation import Evaluator
from dfkd_bench.failures import DivergedError
from dfkd_bench.ledger import CostLedger
from dfkd_bench.models import build_model
from dfkd_bench.network import Network, Normalisation, frozen
from dfkd_bench.pictures import Gallery
from dfkd_bench.plugins import STAGE_KINDS, Registry
from dfkd_bench.progress import ProgressFile
from dfkd_bench.records import BankReport, CurvePoint, TeacherReport
from dfkd_bench.seeds import global_state, global_stream, set_global_state, stream, stream_seed
from dfkd_bench.segments import Segment, segments
from dfkd_bench.spec import RunSpec
from dfkd_bench.stages import Round
from dfkd_bench.staging import Emit, StageSet
from dfkd_bench.teachers import Teacher
from dfkd_bench.weights import weights_hash

__all__ = ["Run"]


class Run:
    """All that a run is while it lasts."""

    def __init__(
        self,
        spec: RunSpec,
        teacher: Teacher,
        registry: Registry,
        execution: Execution,
        emit: Emit,
        file: ProgressFile,
    ) -> None:
        self.spec, self.registry, self.execution, self.emit, self.file = spec, registry, execution, emit, file
        self.device = execution.device
        self.plan = segments(spec.schedule)
        data = open_dataset(spec.dataset, registry, execution.data_root)
        self.card, self.teacher_card = data.card, teacher.card
        self.evaluator = Evaluator(data.load("test"), self.device)
        self.ledger = CostLedger(self.device)
        self.teacher = self._network(teacher.body, teacher.card).eval().requires_grad_(False)
        with global_stream(stream_seed(spec.seed, "student/weights"), self.device):
            self.student = self._network(build_model(spec.pair.student, self.card, registry, start=True), self.card)
        self.ledger.watch(self.teacher.body, "teacher")
        self.ledger.watch(self.student.body, "student")
        self.streams = {kind: stream(spec.seed, kind, self.device) for kind in (*STAGE_KINDS, "order")}
        self.bank = ImageBank(self.card.image_shape, self.device, self.streams["order"], spec.schedule.bank_capacity)
        self.report, self.curve, self.gallery = BankReport(), list[CurvePoint](), Gallery()
        self.done, self.rounds, self.augmenter_ready = 0, 0, False
        self.sources: tuple[Tensor, Tensor] | None = None
        self.sourced, self.part, self.ready = 0, 0.0, False
        self.loss_sums = dict[str, Tensor]()
        self.stages = StageSet(spec, registry, self.card)
        self.images = self.stages.open_door(registry, execution)
        file.note(**self.so_far())

    def _network(self, body: nn.Module, card: Normalisation) -> Network:
        network = Network(body, card, self.execution.precision).to(self.device)
        return network.to(memory_format=torch.channels_last)

    def _make_stages(self) -> None:
        context = (self.execution, self.streams, self.ledger, self.emit, self.images)
        with frozen(self.student):
            self.stages.make(self.teacher, self.student, *context)
        schedule = self.spec.schedule
        parameters = [*self.student.parameters(), *self.stages.distiller.parameters()]
        self.optimizer = torch.optim.SGD(
            parameters, schedule.lr, schedule.momentum, weight_decay=schedule.weight_decay, nesterov=schedule.nesterov
        )

    def to_the_end(self, checkpoint: Checkpoint) -> None:
        """Everything still to do."""
        teacher_before = weights_hash(self.teacher.body.state_dict())
        self.reference = self.evaluator.reference(self.teacher)
        with sealed(f"method '{self.spec.method}'"):
            self._make_stages()
            checkpoint.restore(self)
            self.ready = True
            self.file.note(**self.so_far(), resumed_at=self.done + self.part, going_since=datetime.now(UTC))
            self.file.write()
            while self.done < len(self.plan):
                part = self._do(self.plan[self.done])
                self.done, self.part = (self.done, part) if part < 1 else (self.done + 1, 0.0)
                self.file.note(**self.so_far())
                checkpoint.save_if_due(self)
            self._measure_bank()
        if weights_hash(self.teacher.body.state_dict()) != teacher_before:
            raise RuntimeError("a stage changed the teacher's weights or BatchNorm statistics")

    def _do(self, segment: Segment) -> float:
        """Some of the present segment, or all; the part of it that is behind the run then."""
        if segment.kind == "warmup":
            self._keep(self._synthesize(warmup=True), segment.images)
            return len(self.bank) / segment.images if segment.images else 1.0
        if segment.kind == "augment":
            return self._augment_bank()
        if self.spec.schedule.rounds_per_epoch:
            batch = self._synthesize(warmup=False)
            self._keep(batch)
            if not self.stages.synthesizer.stream:
                self._augment(batch)
        self._distil(segment)
        if segment.ends_epoch:
            self._end_epoch(segment.epoch)
        return 1.0

    def _synthesize(self, *, warmup: bool) -> SyntheticBatch:
        self.emit("phase", {"phase": "synthesizer", "round": self.rounds})
        with self.ledger.phase("synthesis") as cost, frozen(self.student):
            batch = self.stages.synthesizer.synthesize(Round(self.rounds, warmup))
            cost.images += len(batch)
        self._check(batch)
        self.rounds += 1
        self.report = self.report.model_copy(update={"synthesised": self.report.synthesised + len(batch)})
        return batch

    def _check(self, batch: SyntheticBatch, sourced: int | None = None) -> None:
        if not bool(torch.isfinite(batch.images).all()):
            raise DivergedError(f"images are not finite after {self.report.synthesised} were synthesised")
        batch.check(self.card.image_shape, self.card.num_classes, sourced=sourced)

    def _keep(self, batch: SyntheticBatch, wanted: int | None = None) -> None:
        if wanted is not None:
            if not len(batch):
                raise ValueError(f"the warm-up needs {wanted} images, and a round of it made none")
            batch = batch.select(slice(wanted - len(self.bank)))
        self.gallery.saw(batch)
        if not self.stages.synthesizer.stream:
            self.bank.add(batch)

    def _augment_bank(self) -> float:
        """Augment the next batch of what the warm-up left."""
        if self.stages.synthesizer.stream or not len(self.bank):
            return 1.0
        if self.sources is None:
            # Copied: in a bank that is full, variants take the places of what they were made from.
            self.sources = (self.bank.images.clone(), self.bank.targets.clone())
        images, targets = self.sources
        start, self.sourced = self.sourced, self.sourced + self.spec.schedule.batch_size
        part = slice(start, self.sourced)
        self._augment(SyntheticBatch(images[part].float() / 255, targets[part]))
        if self.sourced < len(images):
            return self.sourced / len(images)
        self.sources, self.sourced = None, 0
        return 1.0

    def _augment(self, source: SyntheticBatch) -> None:
        self.emit("phase", {"phase": "augmenter"})
        with self.ledger.phase("augmentation") as cost, frozen(self.student):
            if not self.augmenter_ready:
                self.stages.augmenter.prepare(self.bank)
                self.augmenter_ready = True
            augmented = self.stages.augmenter.augment(source)
            cost.images += len(augmented)
        if not len(augmented):
            return
        self._check(augmented, sourced=len(source))
        with self.ledger.phase("filtering") as cost, frozen(self.student), torch.no_grad():
            keep = self.stages.filter.keep(augmented, source)
            cost.images += len(augmented)
        if keep.dtype != torch.bool or keep.shape != augmented.targets.shape:
            raise ValueError(f"the filter answered {keep.dtype} {list(keep.shape)}, not bool [{len(augmented)}]")
        self.gallery.saw_variants(source, augmented, keep)
        kept = augmented.select(keep)
        self.bank.add(kept)
        counts = {"augmented": self.report.augmented + len(augmented), "kept": self.report.kept + len(kept)}
        self.report = self.report.model_copy(update=counts)

    def _next_batch(self) -> SyntheticBatch:
        size = self.spec.schedule.batch_size
        if self.stages.synthesizer.stream:
            with self.ledger.aside("synthesis") as cost, frozen(self.student):
                batch = self.stages.synthesizer.sample(size)
                cost.images += len(batch)
            self.report = self.report.model_copy(update={"synthesised": self.report.synthesised + len(batch)})
            return batch
        images, targets = self.bank.draw(size)
        return SyntheticBatch(crop_and_flip(images, self.card.transform, self.streams["order"]).float() / 255, targets)

    def _distil(self, segment: Segment) -> None:
        self.emit("phase", {"phase": "distillation", "epoch": segment.epoch + 1})
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(segment.epoch)
        self.student.train()
        with self.ledger.phase("distillation") as cost:
            for step in range(segment.steps):
                batch = self._next_batch()
                losses = self.stages.distiller.losses(self.student, self.teacher, batch)
                self.optimizer.zero_grad(set_to_none=True)
                torch.stack(list(losses.values())).sum().backward()
                self.optimizer.step()
                for name, loss in losses.items():
                    self.loss_sums[name] = self.loss_sums.get(name, torch.zeros_like(loss)) + loss.detach()
                self.stages.synthesizer.after_distill_step(batch)
                self.emit("progress", {"phase": "distillation", "done": step + 1, "total": segment.steps})
            cost.images += segment.steps * self.spec.schedule.batch_size

    def _lr(self, epoch: int) -> float:
        schedule = self.spec.schedule
        if schedule.lr_schedule == "constant":
            return schedule.lr
        return schedule.lr_min + (schedule.lr - schedule.lr_min) * (1 + math.cos(math.pi * epoch / schedule.epochs)) / 2

    def _end_epoch(self, epoch: int) -> None:
        steps = self.spec.schedule.steps_per_epoch
        losses = {name: float(total) / steps for name, total in self.loss_sums.items()}
        self.loss_sums = {}
        bad = [name for name, loss in losses.items() if not math.isfinite(loss)]
        if bad:
            raise DivergedError(f"the loss '{bad[0]}' is {losses[bad[0]]} in epoch {epoch + 1}")
        with self.ledger.phase("evaluation") as cost:
            measured = self.evaluator.measure(self.student, self.reference)
            cost.images += len(self.evaluator)
        point = CurvePoint(
            epoch=epoch + 1,
            steps=(epoch + 1) * steps,
            lr=self._lr(epoch),
            losses=losses,
            accuracy=measured.top1,
            accuracy_top5=measured.top5,
            agreement=measured.agreement,
        )
        self.curve.append(point)
        self.file.note(**self.so_far())
        self.emit("epoch", {**point.model_dump(), "epochs": self.spec.schedule.epochs})

    @torch.no_grad()
    def _measure_bank(self) -> None:
        agreement = None
        if len(self.bank):
            with self.ledger.phase("evaluation"):
                # Evenly spaced images, at most 10,000: enough for a percentage.
                index = torch.arange(0, len(self.bank), math.ceil(len(self.bank) / 10_000), device=self.device)
                batches = (self.bank.batch(part) for part in index.split(500))
                hits = sum(int((self.teacher(b.images).argmax(1) == b.targets).sum()) for b in batches)
            agreement = round(100 * hits / len(index), 4)
        self.report = self.report.model_copy(update={"in_bank": len(self.bank), "target_agreement": agreement})

    def so_far(self) -> dict[str, Any]:
        """What the run can say of itself, for its progress file and its record."""
        card = self.teacher_card
        known = {
            "teacher": TeacherReport(model=card.model, sha256=card.sha256, accuracy=card.accuracy, source=card.source),
            "student_parameters": sum(parameter.numel() for parameter in self.student.parameters()),
            "test_split": self.evaluator.fingerprint,
        }
        if not self.ready:  # its checkpoint is not read yet: what an earlier start said of the rest stands
            return known
        return {
            **known,
            "curve": tuple(self.curve),
            "bank": self.report,
            "cost": self.ledger.state_dict(),
            "segments": len(self.plan),
            "done": self.done,
            "part": self.part,
        }

    def picture(self, path: Path, trace: str | None) -> tuple[str | None, str | None]:
        """Draw it; its name, and `trace`. A device that broke gives no images back: then the trace may say so."""
        try:
            return self.gallery.write(path, self.bank, self.spec.title), trace
        except DfkdError:
            raise
        except Exception:
            return None, trace or traceback.format_exc()

    def state_dict(self) -> dict[str, Any]:
        """Everything that the run is, at the end of a segment."""
        return {
            "done": self.done,
            "part": self.part,
            "sources": self.sources,
            "sourced": self.sourced,
            "rounds": self.rounds,
            "augmenter_ready": self.augmenter_ready,
            "loss_sums": self.loss_sums,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "stages": self.stages.state_dict(),
            "streams": {name: generator.get_state() for name, generator in self.streams.items()},
            "global_streams": global_state(self.device),
            "bank": self.bank.state_dict(),
            "gallery": self.gallery.state_dict(),
            "ledger": self.ledger.state_dict(),
            "report": self.report.model_dump(),
            "curve": [point.model_dump() for point in self.curve],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.done, self.rounds, self.loss_sums = state["done"], state["rounds"], state["loss_sums"]
        self.part, self.sourced, self.augmenter_ready = state["part"], state["sourced"], state["augmenter_ready"]
        if state["sources"] is not None:
            images, targets = state["sources"]
            self.sources = (images.to(self.device), targets.to(self.device))
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.stages.load_state_dict(state["stages"])
        for name, generator in self.streams.items():
            generator.set_state(state["streams"][name].cpu())
        set_global_state(state["global_streams"], self.device)
        self.bank.load_state_dict(state["bank"])
        self.gallery.load_state_dict(state["gallery"])
        self.ledger.load_state_dict(state["ledger"])
        self.report = BankReport.model_validate(state["report"])
        self.curve = [CurvePoint.model_validate(point) for point in state["curve"]]
