"""The student is what the optimizer made of it, wherever a stage had it in hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from pydantic import Field
from support.e2e_kit import bench, own_cache, registry_with, specs  # noqa: F401
from support.faulty_stages import gray
from torch import nn

from dfkd_bench import Augmenter, Distiller, Filter, StageOptions, Synthesizer, SyntheticBatch
from dfkd_bench.runs.runner import run_spec
from dfkd_bench.runs.student_watch import StudentWatch


def loads_the_teacher(context):
    context.student.body.load_state_dict(context.teacher.body.state_dict())


def adds_to_one(context):
    with torch.no_grad():
        next(context.student.parameters()).add_(1e-3)


def past_torchs_counting(context):
    list(context.student.parameters())[3].data.mul_(1.5)


def puts_another_in_its_place(context):
    context.student.body.fc = nn.Linear(context.student.feature_dim, context.card.num_classes)


WAYS = {
    "loads": loads_the_teacher,
    "adds": adds_to_one,
    "data": past_torchs_counting,
    "replaces": puts_another_in_its_place,
}
MOMENTS = ("made", "synthesize", "sample", "after", "prepare", "augment", "keep", "losses")


class MeddlerOptions(StageOptions):
    way: str = Field("none", description="how the student is changed")
    moment: str = Field("none", description="when")


class _Meddler:
    def meddle(self, moment):
        if moment == self.options.moment:
            WAYS[self.options.way](self.context)


class MeddlingSynthesizer(_Meddler, Synthesizer[MeddlerOptions]):
    Options = MeddlerOptions

    def __init__(self, options, context):
        super().__init__(options, context)
        self.meddle("made")

    def synthesize(self, round):
        self.meddle("synthesize")
        return gray(self.context)

    def after_distill_step(self, batch):
        self.meddle("after")


class MeddlingStream(MeddlingSynthesizer):
    stream = True

    def sample(self, count):
        self.meddle("sample")
        return gray(self.context, count)


class MeddlingAugmenter(_Meddler, Augmenter[MeddlerOptions]):
    Options = MeddlerOptions

    def prepare(self, bank):
        self.meddle("prepare")

    def augment(self, batch):
        self.meddle("augment")
        return SyntheticBatch(batch.images, batch.targets, torch.arange(len(batch)))


class MeddlingFilter(_Meddler, Filter[MeddlerOptions]):
    Options = MeddlerOptions

    def keep(self, augmented, source):
        self.meddle("keep")
        return torch.ones(len(augmented), dtype=torch.bool)


class MeddlingDistiller(_Meddler, Distiller[MeddlerOptions]):
    Options = MeddlerOptions

    def losses(self, student, teacher, batch):
        self.meddle("losses")
        return {"size": student(batch.images).square().mean()}


STAGES = {
    "synthesizer": {"meddler": MeddlingSynthesizer, "meddling-stream": MeddlingStream},
    "augmenter": {"meddler": MeddlingAugmenter},
    "filter": {"meddler": MeddlingFilter},
    "distiller": {"meddler": MeddlingDistiller},
}
WHO = {
    "made": "making of the stages",
    "prepare": "augmenter 'meddler'",
    "augment": "augmenter 'meddler'",
    "keep": "filter 'meddler'",
    "losses": "distiller 'meddler'",
    "sample": "synthesizer 'meddling-stream'",
}


def meddled(tmp_path, way, moment):
    workbench = bench(tmp_path / "results", registry_with(**STAGES))
    swaps = dict.fromkeys(STAGES, "meddler")
    if moment == "sample":
        swaps = {"synthesizer": "meddling-stream", "distiller": "meddler"}
    chosen = [f"{kind}.{name}={value}" for kind in swaps for name, value in (("way", way), ("moment", moment))]
    (spec,) = specs(workbench, "noise", *chosen, swaps=swaps)
    return run_spec(spec, workbench.results, workbench.store)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_stage_that_loads_the_teachers_weights_into_the_student_is_a_failed_row(tmp_path, moment):
    record = meddled(tmp_path, "loads", moment)
    who = WHO.get(moment, "synthesizer 'meddler'")
    assert record.status == "failed"
    assert record.reason == f"RuntimeError: the {who} changed the student's weights: only the optimizer may"


@pytest.mark.parametrize(
    ("way", "moment"),
    [
        *itertools.product(("adds", "data", "replaces"), ("synthesize", "keep")),
        # In a step, which cannot wait for the device: looked at closely in the first one of each segment.
        *(("data", moment) for moment in ("losses", "after", "sample")),
    ],
)
def test_every_way_of_changing_it_in_a_round_is_seen(tmp_path, way, moment):
    record = meddled(tmp_path, way, moment)
    assert (record.status, "changed the student's weights" in str(record.reason)) == ("failed", True)


def test_the_same_stages_finish_if_they_leave_it_alone(tmp_path):
    assert meddled(tmp_path, "loads", "never").status == "finished"


def test_looking_at_it_in_training_mode_is_no_change(toy_context):
    watch = StudentWatch(toy_context.student)
    with watch.untouched("stage"):
        toy_context.student.train()(torch.rand(4, 3, 8, 8))
    with torch.no_grad():
        next(toy_context.student.parameters()).fill_(torch.nan)
    watch.mark()
    with watch.untouched("stage"):
        pass  # what is not a number is not another one
    with pytest.raises(RuntimeError, match=r"^the stage changed the student's weights: only the optimizer may$"):
        with watch.untouched("stage"):
            next(toy_context.student.parameters()).data.fill_(0)
