"""What the parts of a run share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from dfkd_bench.card import DatasetCard
from dfkd_bench.hooks.registry import StageKind
from dfkd_bench.runs.stage_set import Emit, StageSet
from dfkd_bench.runs.student_watch import StudentWatch
from dfkd_bench.spec import RunSpec
from dfkd_bench.stages.graphs import Graphs
from dfkd_bench.stages.ledger import CostLedger
from dfkd_bench.stages.network import Network

__all__ = ["RunParts"]


@dataclass(frozen=True)
class RunParts:
    """One run's networks, stages and books.

    Attributes:
        spec: what is run.
        card: the dataset's.
        device: where tensors are.
        teacher: frozen, in evaluation mode.
        student: the network that learns.
        watch: sees to it that only the optimizer changes the student.
        stages: the four stages.
        streams: a random stream for each stage, and `order` for the student's batches.
        ledger: what the run spends.
        graphs: its captured steps, if it captures any.
        emit: tells people what happens.
    """

    spec: RunSpec
    card: DatasetCard
    device: torch.device
    teacher: Network
    student: Network
    watch: StudentWatch
    stages: StageSet
    streams: Mapping[str, torch.Generator]
    ledger: CostLedger
    graphs: Graphs
    emit: Emit

    def stage(self, kind: StageKind) -> str:
        """What an error calls a stage."""
        return f"{kind} '{getattr(self.spec, kind).name}'"
