"""What the kit says of the usual slips: one cause once, in words that name what to mend."""

from __future__ import annotations

import pytest
import torch
from pydantic import Field
from support.e2e_kit import cli, registry_with
from support.planted import Mirror, Options, Right, Teach

from dfkd_bench import Augmenter, DfkdError, Distiller, StageOptions, Synthesizer, SyntheticBatch
from dfkd_bench.contract import check_name, check_stage, checks
from dfkd_bench.contract.checks import check_subject
from dfkd_bench.contract.roles import options_of
from dfkd_bench.contract.subject import Subject


class Tuple(Synthesizer[StageOptions]):
    def synthesize(self, round):
        return torch.zeros(2, 3, 8, 8), torch.zeros(2, dtype=torch.int64)


class Nothing(Augmenter[StageOptions]):
    def augment(self, batch):
        pass


class BareLoss(Teach):
    def losses(self, student, teacher, batch):
        return super().losses(student, teacher, batch)["kd"]


class NoLoss(Distiller[StageOptions]):
    def losses(self, student, teacher, batch):
        return {}


class ManyLosses(Distiller[StageOptions]):
    def losses(self, student, teacher, batch):
        return {"kd": student(batch.images)}


@pytest.mark.parametrize(
    ("stage", "sentence"),
    [
        (Tuple, "synthesize returns a tuple, not a SyntheticBatch"),
        (Nothing, "augment returns nothing, not a SyntheticBatch"),
        (BareLoss, "losses returns a Tensor, not a dict of named scalar tensors"),
        (NoLoss, "losses returns no loss at all: the student has nothing to learn from"),
        (ManyLosses, "its loss 'kd' is no scalar but [13, 3]"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_what_comes_back_wrong_is_told_once_with_its_place(stage, sentence):
    (finding,) = check_stage(stage)
    assert (finding.check, finding.verdict) == ("comes through a run", "fail")
    assert finding.reason.startswith(f"{sentence}; ")
    assert "test_messages.py:" in finding.where


class Misspelt(Synthesizer[StageOptions]):
    def synthesise(self, round):
        raise AssertionError


class NoSample(Right):
    stream = True


class ForgottenOptions(Synthesizer[Options]):
    def synthesize(self, round):
        raise AssertionError


class OddRole(Mirror):
    class Options(StageOptions):
        gap: float = Field(1.0, description="x", json_schema_extra={"role": "friend"})


def test_a_class_that_cannot_work_is_refused_in_a_sentence():
    with pytest.raises(DfkdError, match="Misspelt has no method 'synthesize': is 'synthesise' meant to be it"):
        check_stage(Misspelt)
    with pytest.raises(DfkdError, match="NoSample has no method 'sample'"):
        check_stage(NoSample)
    with pytest.raises(DfkdError, match=r"ForgottenOptions is a stage of Options, .* write `Options = Options` into"):
        check_stage(ForgottenOptions)
    with pytest.raises(DfkdError, match="the role 'friend': known are adversary, batchnorm"):
        options_of(OddRole, "adversary")


def test_a_role_is_an_options_name_or_what_it_says():
    class Gap(Right):
        class Options(StageOptions):
            bn: float = Field(1.0, description="x")
            gap: float = Field(1.0, description="x", json_schema_extra={"role": "adversary"})

    assert options_of(Gap, "adversary") == ["gap"]
    assert options_of(Gap, "batchnorm") == ["bn"]
    assert options_of(Right, "adversary") == ["adv"]


class Schedule(Mirror):
    """Steps that run are strength times steps, as in diffusion: with few steps, none."""

    class Options(StageOptions):
        steps: int = Field(50, ge=1, description="denoising steps")
        strength: float = Field(0.3, ge=0, le=1, description="part of them that is run")

    def augment(self, batch):
        steps = int(self.options.steps * self.options.strength)
        return super().augment(SyntheticBatch(batch.images + torch.zeros(steps).view(-1, 1, 1, 1)[0], batch.targets))


def test_a_count_that_the_kit_has_cut_is_named_where_the_stage_breaks_on_it():
    (finding,) = check_stage(Schedule)
    assert finding.reason.startswith("IndexError: ")
    assert "(tried with steps=3 (not 50))" in finding.reason


class Jumpy(Right):
    """Breaks on the classes of the checks of behavior, in two of them alike."""

    def __init__(self, options, context):
        super().__init__(options, context)
        if context.card.num_classes != 3:
            raise RuntimeError("three classes")


def test_a_cause_is_told_once(monkeypatch):
    monkeypatch.setattr(checks, "FORM", {})
    found = {finding.check: finding for finding in check_subject(Subject("jumpy", Jumpy, (Options(),)))}
    assert found["more steps meet the targets"].reason == "RuntimeError: three classes"
    assert found["its weights pull the right way"].verdict == "skipped"
    assert found["its weights pull the right way"].reason == "fails as 'more steps meet the targets' does"


def test_on_a_pair_of_ones_own_in_half_precision():
    registry = registry_with(distiller={"teach": Teach})
    found = list(check_name("teach", registry, precision="bf16", pair="lenet5:lenet5_half"))
    assert [finding.check for finding in found if finding.verdict == "pass"] == [
        "comes through a run",
        "images finite and in [0, 1]",
        "teacher and student untouched",
        "the student is not the teacher",
        "the student learns",
        "losses equal their reference",
    ]
    assert "resnet8" in cli("check", "kd", "--pair", "resnet9:resnet8").sentence()
    assert "is no pair" in cli("check", "kd", "--pair", "resnet8").sentence()


def test_one_thread_is_taken_and_given_back():
    seen = []

    class Counting(Mirror):
        def augment(self, batch):
            seen.append(torch.get_num_threads())
            return super().augment(batch)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        list(check_stage(Counting, behavior=False))
        assert set(seen) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
