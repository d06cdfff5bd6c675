"""Stages of each kind that do wrong what they are asked to do wrong."""

from __future__ import annotations

import numpy as np
import torch
from pydantic import Field
from torch import nn

from dfkd_bench import Augmenter, Distiller, Filter, StageOptions, Synthesizer, SyntheticBatch
from support.e2e_kit import bench, registry_with, specs


def gray(context, count=8) -> SyntheticBatch:
    images = torch.rand((count, *context.card.image_shape), generator=context.generator, device=context.device)
    return SyntheticBatch(images, torch.arange(count, device=context.device) % context.card.num_classes)


class FaultOptions(StageOptions):
    fault: str = Field("none", description="what goes wrong")


class FaultySynthesizer(Synthesizer[FaultOptions]):
    Options = FaultOptions

    def __init__(self, options, context):
        super().__init__(options, context)
        if options.fault == "making":
            raise RuntimeError("made on purpose")

    def synthesize(self, round):
        batch, fault, late = gray(self.context), self.options.fault, round.index == 1
        if fault == "raises" and late:
            raise RuntimeError("on\npurpose")
        if fault == "nan" and late:
            batch.images[3, 0, 2, 2] = torch.nan
        if fault == "range":
            batch.images[0] += 1
        if fault == "shape":
            return SyntheticBatch(batch.images[:, :, 1:], batch.targets)
        if fault == "targets":
            batch.targets[0] = 10
        if fault == "weights" and late:
            with torch.no_grad():
                next(self.context.teacher.parameters()).add_(1e-3)
        if fault == "statistics" and late:
            next(m for m in self.context.teacher.modules() if isinstance(m, nn.BatchNorm2d)).running_mean.add_(1e-3)
        if fault == "nothing":
            return batch.select(slice(0, 0))
        if fault == "torch's own generator":
            return SyntheticBatch(torch.rand_like(batch.images), batch.targets)
        return batch

    def state_dict(self):
        return {"seen": np.float64(3)} if self.options.fault == "state" else {}


class FaultyAugmenter(Augmenter[FaultOptions]):
    Options = FaultOptions

    def augment(self, batch):
        source = torch.arange(len(batch))
        if self.options.fault == "no source":
            return batch
        if self.options.fault == "a source too far":
            source += 1
        return SyntheticBatch(batch.images, batch.targets, source)


class FaultyFilter(Filter[FaultOptions]):
    Options = FaultOptions

    def keep(self, augmented, source):
        if self.options.fault == "numbers":
            return torch.ones(len(augmented))
        if self.options.fault == "too few":
            return torch.ones(len(augmented) - 1, dtype=torch.bool)
        return torch.arange(len(augmented)) % 4 == 0


class FaultyDistiller(Distiller[FaultOptions]):
    Options = FaultOptions

    def losses(self, student, teacher, batch):
        loss = student(batch.images).square().mean()
        if self.options.fault == "nan":
            return {"bad": loss * torch.nan, "fine": loss}
        if self.options.fault == "inf":
            return {"bad": loss * torch.inf, "fine": loss}
        if self.options.fault == "none at all":
            return {}
        return {"fine": loss}


SWAPS = {"synthesizer": "faulty", "augmenter": "faulty", "filter": "faulty", "distiller": "faulty"}


def faulty(tmp_path, *faults: str):
    registry = registry_with(
        synthesizer={"faulty": FaultySynthesizer},
        augmenter={"faulty": FaultyAugmenter},
        filter={"faulty": FaultyFilter},
        distiller={"faulty": FaultyDistiller},
    )
    workbench = bench(tmp_path / "results", registry)
    (spec,) = specs(workbench, "noise", *faults, swaps=SWAPS)
    return workbench, spec
