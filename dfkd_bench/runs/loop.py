"""What a run does, in reading order: synthesize, augment, filter, keep, distill, evaluate."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn

from dfkd_bench.card import DatasetCard
from dfkd_bench.datasets.access import open_dataset
from dfkd_bench.datasets.guard import evaluating, require_no_attempt, sealed
from dfkd_bench.environment import Execution
from dfkd_bench.errors import DfkdError
from dfkd_bench.evaluation import Evaluator
from dfkd_bench.hooks.registry import STAGE_KINDS, Registry
from dfkd_bench.models.build import build_model
from dfkd_bench.results.curves import CurvePoint
from dfkd_bench.results.progress_file import ProgressFile
from dfkd_bench.results.records import TeacherReport
from dfkd_bench.resume.checkpoint import Checkpoint
from dfkd_bench.runs.bank_filling import BankFilling
from dfkd_bench.runs.distillation import Distillation
from dfkd_bench.runs.kept import keep
from dfkd_bench.runs.parts import RunParts
from dfkd_bench.runs.segments import Segment, segments
from dfkd_bench.runs.stage_set import Emit, StageSet
from dfkd_bench.runs.student_watch import StudentWatch
from dfkd_bench.spec import RunSpec
from dfkd_bench.stages.graphs import CudaCapturer, Graphs
from dfkd_bench.stages.ledger import CostLedger
from dfkd_bench.stages.network import Network, Normalization, frozen
from dfkd_bench.stages.seeds import global_state, global_stream, set_global_state, stream, stream_seed
from dfkd_bench.teachers.answers import teacher_answers
from dfkd_bench.teachers.store import Teacher
from dfkd_bench.teachers.weights import weights_hash

__all__ = ["Run"]


class Run:
    """The order of a run's segments, its curve, and its state between them."""

    def __init__(
        self,
        spec: RunSpec,
        teacher: Teacher,
        registry: Registry,
        execution: Execution,
        emit: Emit,
        file: ProgressFile,
    ) -> None:
        self._spec, self._execution, self._emit, self._file = spec, execution, emit, file
        self._teacher = teacher
        data = open_dataset(spec.dataset, registry, execution.data_root)
        self._evaluator = Evaluator(data.load("test"), execution.device)
        self._parts = self._make_parts(teacher, registry, data.card)
        self._filling = BankFilling(self._parts)
        self._images = self._parts.stages.open_door(registry, execution)
        self._segments = segments(spec.schedule)
        self._segments_done, self._part_done, self._ready = 0, 0.0, False
        self._curve = list[CurvePoint]()
        file.note(**self.so_far())

    def _make_parts(self, teacher: Teacher, registry: Registry, card: DatasetCard) -> RunParts:
        spec, device = self._spec, self._execution.device
        ledger = CostLedger(device)
        frozen_teacher = self._network(teacher.body, teacher.card).eval().requires_grad_(False)
        with global_stream(stream_seed(spec.seed, "student/weights"), device):
            student = self._network(build_model(spec.pair.student, card, registry, start=True), card)
        # What is measured is a copy, on which no stage can have left a hook that would see the test images.
        with global_stream(0, device):
            self._measured = self._network(build_model(spec.pair.student, card, registry), card)
        ledger.watch(frozen_teacher.body, "teacher")
        for body in (student.body, self._measured.body):
            ledger.watch(body, "student")
        streams = {name: stream(spec.seed, name, device) for name in (*STAGE_KINDS, "order")}
        capturing = self._execution.graphs and device.type == "cuda"
        capturer = CudaCapturer(streams.values()) if capturing else None
        return RunParts(
            spec=spec,
            card=card,
            device=device,
            teacher=frozen_teacher,
            student=student,
            watch=StudentWatch(student),
            stages=StageSet(spec, registry, card),
            streams=streams,
            ledger=ledger,
            graphs=Graphs(ledger, capturer, self._file.remark),
            emit=self._emit,
        )

    def _network(self, body: nn.Module, card: Normalization) -> Network:
        return Network(body, card, self._execution.precision).placed(self._execution.device)

    def to_the_end(self, checkpoint: Checkpoint) -> None:
        """Everything still to do."""
        parts = self._parts
        teacher_before = weights_hash(parts.teacher.body.state_dict())
        self._answers = teacher_answers(self._teacher, parts.teacher, self._evaluator, parts.device)
        if self._execution.compile:
            # After the answers, which other runs share. What is evaluated is never compiled.
            parts.teacher.compile_passes()
            parts.student.compile_passes()
        with sealed(f"method '{self._spec.method}'"):
            with parts.watch.untouched("making of the stages"), frozen(parts.student):
                parts.stages.make(
                    parts.teacher,
                    parts.student,
                    self._execution,
                    parts.streams,
                    parts.ledger,
                    self._emit,
                    self._images,
                    parts.graphs,
                )
            self._distillation = Distillation(parts, self._filling)
            checkpoint.restore(self)
            self._ready = True
            resumed_at = self._segments_done + self._part_done
            self._file.note(**self.so_far(), resumed_at=resumed_at, going_since=datetime.now(UTC))
            self._file.write()
            while self._segments_done < len(self._segments):
                self._part_done = self._do(self._segments[self._segments_done])
                require_no_attempt()
                if self._part_done >= 1:
                    self._segments_done, self._part_done = self._segments_done + 1, 0.0
                self._file.note(**self.so_far())
                checkpoint.save_if_due(self)
            self._filling.measure()
            require_no_attempt()
        if weights_hash(parts.teacher.body.state_dict()) != teacher_before:
            raise RuntimeError("a stage changed the teacher's weights or BatchNorm statistics")

    def _do(self, segment: Segment) -> float:
        """Some of a segment, or all; the part of it that is behind the run then."""
        if segment.kind == "warmup":
            return self._filling.warm_up(segment.images)
        if segment.kind == "augment":
            return self._filling.augment_bank()
        if self._spec.schedule.rounds_per_epoch:
            self._filling.round()
        self._distillation.run(segment)
        if segment.ends_epoch:
            self._end_epoch(segment.epoch)
        return 1.0

    def _end_epoch(self, epoch: int) -> None:
        losses = self._distillation.end_epoch(epoch)
        require_no_attempt()
        self._measured.body.load_state_dict(self._parts.student.body.state_dict())
        with self._parts.ledger.phase("evaluation") as cost, evaluating():
            measured = self._evaluator.measure(self._measured, self._answers)
            cost.images += len(self._evaluator)
        point = CurvePoint(
            epoch=epoch + 1,
            steps=self._spec.schedule.steps_until(epoch + 1),
            lr=self._distillation.lr(epoch),
            losses=losses,
            accuracy=measured.top1,
            accuracy_top5=measured.top5,
            agreement=measured.agreement,
        )
        self._curve.append(point)
        self._file.note(**self.so_far())
        self._emit("epoch", {**point.model_dump(), "epochs": self._spec.schedule.epochs})

    def so_far(self) -> dict[str, Any]:
        """What the run can say of itself, for its progress file and its record."""
        card, sha256 = self._teacher.card, self._teacher.identity
        known = {
            "teacher": TeacherReport(model=card.model, sha256=sha256, accuracy=card.accuracy, source=card.source),
            "student_parameters": sum(parameter.numel() for parameter in self._parts.student.parameters()),
            "test_split": self._evaluator.fingerprint,
        }
        if not self._ready:  # its checkpoint is not read yet: what an earlier start said of the rest stands
            return known
        return {
            **known,
            "curve": tuple(self._curve),
            "bank": self._filling.report,
            "cost": self._parts.ledger.state_dict(),
            "segments": len(self._segments),
            "done": self._segments_done,
            "part": self._part_done,
        }

    def picture(self, path: Path, trace: str | None) -> tuple[str | None, str | None]:
        """Draw it; its name, and `trace`. A device that broke gives no images back: then the trace may say so."""
        try:
            return self._filling.gallery.write(path, self._filling.bank, self._spec.title), trace
        except DfkdError:
            raise
        except Exception:
            return None, trace or traceback.format_exc()

    def keep(self, folder: Path) -> None:
        """Leave the final images and the student's weights in a folder."""
        keep(folder, self._filling.bank, self._parts.student.body)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the run is, between two segments."""
        return {
            "segments_done": self._segments_done,
            "part_done": self._part_done,
            "filling": self._filling.state_dict(),
            "distillation": self._distillation.state_dict(),
            "stages": self._parts.stages.state_dict(),
            "streams": {name: generator.get_state() for name, generator in self._parts.streams.items()},
            "global_streams": global_state(self._parts.device),
            "ledger": self._parts.ledger.state_dict(),
            "curve": [point.model_dump() for point in self._curve],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""
        self._parts.graphs.forget()
        self._segments_done, self._part_done = state["segments_done"], state["part_done"]
        self._filling.load_state_dict(state["filling"])
        self._distillation.load_state_dict(state["distillation"])
        self._parts.stages.load_state_dict(state["stages"])
        for name, generator in self._parts.streams.items():
            generator.set_state(state["streams"][name].cpu())
        set_global_state(state["global_streams"], self._parts.device)
        self._parts.ledger.load_state_dict(state["ledger"])
        self._curve = [CurvePoint.model_validate(point) for point in state["curve"]]
