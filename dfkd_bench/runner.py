"""One spec -> one record, in reading order."""

from __future__ import annotations

import math
import traceback
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dfkd_bench.bank import ImageBank, SyntheticBatch
from dfkd_bench.blocks.views import crop_and_flip
from dfkd_bench.checkpoint import Checkpoint
from dfkd_bench.claims import claimed
from dfkd_bench.datasets.access import open_dataset
from dfkd_bench.datasets.guard import sealed
from dfkd_bench.environment import Execution, describe
from dfkd_bench.errors import DataFreeViolationError, DfkdError
from dfkd_bench.evaluation import Evaluator
from dfkd_bench.events import EventKind, RunEvent
from dfkd_bench.failures import DivergedError, outcome
from dfkd_bench.files import remove_leftovers, replacing
from dfkd_bench.ledger import CostLedger
from dfkd_bench.models import build_model
from dfkd_bench.network import Network, Normalisation, frozen
from dfkd_bench.pictures import Gallery
from dfkd_bench.plugins import STAGE_KINDS, Registry
from dfkd_bench.progress import Progress, ProgressFile
from dfkd_bench.records import BankReport, CurvePoint, Record, Results, Status, TeacherReport
from dfkd_bench.seeds import global_state, global_stream, set_global_state, stream, stream_seed
from dfkd_bench.segments import Segment, segments
from dfkd_bench.spec import RunSpec
from dfkd_bench.stages import Round
from dfkd_bench.staging import Emit, StageSet, priors_of
from dfkd_bench.teachers import Teacher, TeacherStore
from dfkd_bench.weights import weights_hash

__all__ = ["DivergedError", "run_spec"]


def run_spec(
    spec: RunSpec,
    results: Results,
    store: TeacherStore,
    *,
    checkpoint_seconds: float = 60.0,
    retry: bool = False,
    wait: float = -1,
) -> Record:
    """The record of a spec: found in the results folder, or run now and written there.

    A run that was killed goes on from its checkpoint. One that fails or diverges is a record too, with its reason.
    While it goes on no other process does the same run.

    Args:
        spec: what to run.
        results: where its folder is.
        store: where its teacher is, or is trained to.
        checkpoint_seconds: least time between checkpoints.
        retry: run again what has a record but did not finish.
        wait: seconds to wait for another process that does this run; negative for as long as it takes.

    Raises:
        DfkdError: something that the user can mend (data, teacher, folders) stands in the way.
        HeldError: another process does this run and has not ended after `wait` seconds.
    """
    before = results.read(spec.hash)
    if before is not None and (before.status == "finished" or not retry):
        return before
    results.require_writable()
    with claimed(results.path, spec.hash, wait=wait):
        found = results.read(spec.hash)
        # A record that another process wrote while this one waited stands, whatever it says.
        if found is not None and (found.status == "finished" or not retry or found != before):
            return found
        return _run_claimed(spec, results, store, checkpoint_seconds, found)


def _run_claimed(
    spec: RunSpec, results: Results, store: TeacherStore, checkpoint_seconds: float, found: Record | None
) -> Record:
    folder, registry, execution = results.folder(spec.hash), store.registry, store.execution
    folder.mkdir(exist_ok=True)
    remove_leftovers(folder)
    file = ProgressFile(results, Progress.begin(spec, priors_of(spec, registry), describe(execution, registry)))
    file.write()

    def emit(kind: EventKind, data: Mapping[str, Any]) -> None:
        file.hear(kind, data)
        registry.emit(RunEvent(kind, spec.hash, spec.title, data))

    emit("started", {})
    checkpoint = Checkpoint(folder / "checkpoint.pt", spec, registry, checkpoint_seconds)
    if found is not None and found.status not in _GO_ON:
        checkpoint.remove()  # it would lead to the same end
    status: Status = "finished"
    run, reason, trace = None, None, None
    try:
        teacher = store.obtain(spec.teacher, spec.pair.teacher, spec.dataset)
        with global_stream(stream_seed(spec.seed, "global"), execution.device):
            run = _Run(spec, teacher, registry, execution, emit, file)
            run.to_the_end(checkpoint)
    except DataFreeViolationError as error:
        status, reason, trace = "failed", str(error), traceback.format_exc()
    except (DfkdError, KeyboardInterrupt):
        raise
    except (Exception, SystemExit) as error:  # a stage is a stranger's code: whatever it raises is this run's row
        status, reason = outcome(error)
        trace = None if status == "diverged" else traceback.format_exc()
    if run is not None:
        file.note(**run.so_far())
    progress, picture = file.now, None
    if run is not None and status != "out-of-memory":
        picture = run.gallery.write(folder / "images.png", run.bank, spec.title)
    # Let go of all that the run holds: the rest needs some memory.
    run = None
    record = progress.record(status, reason, picture)
    _leave(record, results, trace, checkpoint)
    file.remove()
    emit("finished" if status == "finished" else "failed", {"reason": reason, "record": record})
    return record


def _leave(record: Record, results: Results, trace: str | None, checkpoint: Checkpoint) -> None:
    path = results.folder(record.run) / "traceback.txt"
    path.unlink(missing_ok=True)
    if trace is not None:
        with replacing(path) as temporary:
            temporary.write_text(trace, encoding="utf-8")
    results.write(record)
    if record.status not in _GO_ON:
        checkpoint.remove()


# After these a retry goes on from the checkpoint; after the others it starts anew.
_GO_ON: tuple[Status, ...] = ("killed", "out-of-memory")


class _Run:
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
        self.done, self.rounds, self.resumed_at, self.augmenter_ready = 0, 0, 0, False
        self.loss_sums = dict[str, Tensor]()
        self.stages = StageSet(spec, registry, self.card)
        self.images = self.stages.open_door(registry, execution)
        file.note(**self.so_far())

    def _network(self, body: nn.Module, card: Normalisation) -> Network:
        network = Network(body, card, self.execution.precision).to(self.device)
        return network.to(memory_format=torch.channels_last)

    def _make_stages(self) -> None:
        self.stages.make(self.teacher, self.student, self.execution, self.streams, self.ledger, self.emit, self.images)
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
            self.resumed_at = self.done
            self.file.note(**self.so_far())
            self.file.write()
            while self.done < len(self.plan):
                self._do(self.plan[self.done])
                self.done += len(self.bank) >= (self.plan[self.done].images or 0)
                self.file.note(**self.so_far())
                checkpoint.save_if_due(self)
            self._measure_bank()
        if weights_hash(self.teacher.body.state_dict()) != teacher_before:
            raise RuntimeError("a stage changed the teacher's weights or BatchNorm statistics")

    def _do(self, segment: Segment) -> None:
        if segment.kind == "warmup":
            self._keep(self._synthesize(warmup=True), segment.images)
        elif segment.kind == "augment":
            self._augment_bank()
        else:
            if self.spec.schedule.rounds_per_epoch:
                batch = self._synthesize(warmup=False)
                self._keep(batch)
                if not self.stages.synthesizer.stream:
                    self._augment(batch)
            self._distil(segment)
            if segment.ends_epoch:
                self._end_epoch(segment.epoch)

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

    def _augment_bank(self) -> None:
        """Augment what the warm-up left, a batch at a time, once all of it is there."""
        if self.stages.synthesizer.stream:
            return
        size, count = self.spec.schedule.batch_size, len(self.bank)
        sources = [
            self.bank.batch(torch.arange(at, min(at + size, count), device=self.device)) for at in range(0, count, size)
        ]
        for source in sources:
            self._augment(source)

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
            return self.stages.synthesizer.sample(size)
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
        return {
            "teacher": TeacherReport(model=card.model, sha256=card.sha256, accuracy=card.accuracy, source=card.source),
            "student_parameters": sum(parameter.numel() for parameter in self.student.parameters()),
            "test_split": self.evaluator.fingerprint,
            "curve": tuple(self.curve),
            "bank": self.report,
            "cost": self.ledger.state_dict(),
            "segments": len(self.plan),
            "done": self.done,
            "resumed_at": self.resumed_at,
        }

    def state_dict(self) -> dict[str, Any]:
        """Everything that the run is, at the end of a segment."""
        return {
            "done": self.done,
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
        self.augmenter_ready = state["augmenter_ready"]
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
