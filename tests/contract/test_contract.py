"""The contract kit passes what is whole and fails what is broken, with the sentence that says how."""

from __future__ import annotations

import inspect
import re
from typing import Any
from unittest import mock

import pytest
import torch
from pydantic import Field
from support.broken_stages import BROKEN, DrawsFromElsewhere, PixelOptions, ReadAndThrownAway, Whole
from support.e2e_kit import cli, registry_with
from torch import Tensor

from dfkd_bench import DfkdError, Method, Round, StageOptions, Synthesizer, SyntheticBatch, use
from dfkd_bench.contract import Finding, assert_contract, check_name, check_stage, checks_of, episode
from dfkd_bench.contract.alternatives import alternatives, shrunk
from dfkd_bench.contract.episode import equal, same
from dfkd_bench.contract.world import World, make_card


def by_check(stage: type[Any], *settings: dict[str, Any]) -> dict[str, Finding]:
    return {finding.check: finding for finding in check_stage(stage, *settings, behavior=False)}


def test_a_whole_stage_passes_every_check():
    found = {finding.check: finding for finding in check_stage(Whole)}
    assert list(found) == list(checks_of(Whole))
    skipped = {check: finding.reason for check, finding in found.items() if finding.verdict == "skipped"}
    assert {finding.verdict for finding in found.values()} == {"pass"}, (found, skipped)


@pytest.mark.parametrize("stage", BROKEN, ids=lambda stage: stage.__name__)
def test_a_broken_stage_fails_its_check_with_the_sentence(stage):
    check, sentence = BROKEN[stage]
    finding = next(finding for finding in check_stage(stage, behavior=False) if finding.check == check)
    assert finding.verdict == "fail"
    assert re.search(sentence, finding.reason), finding.reason
    assert re.search(r"support/broken_stages\.py:\d+$", finding.where)


def test_the_helper_for_tests_raises_with_every_failure():
    with pytest.raises(AssertionError, match="draws from elsewhere than its stream"):
        assert_contract(DrawsFromElsewhere)


def test_the_helper_for_tests_lets_a_whole_stage_through():
    assert_contract(Whole)


def test_a_broken_option_breaks_nothing_else():
    found = check_stage(ReadAndThrownAway, behavior=False)
    verdicts = {finding.check: finding.verdict for finding in found}
    assert verdicts.pop("each option changes something") == "fail"
    assert set(verdicts.values()) == {"pass"}


class Constant(Synthesizer[StageOptions]):
    """An adversary of which only the number reaches the images: it changes with the student, without a gradient."""

    class Options(StageOptions):
        adv: float = Field(1.0, ge=0, description="weight of the adversary")

    def synthesize(self, round: Round) -> SyntheticBatch:
        images = torch.full((4, *self.context.card.image_shape), 0.5)
        with torch.no_grad():
            shade = self.options.adv * self.context.student(images).sigmoid().mean()
        return SyntheticBatch((images * shade).clamp(0, 1), torch.zeros(4, dtype=torch.int64))


def test_an_adversary_without_a_gradient_is_told_from_a_dead_one():
    finding = by_check(Constant)["the adversary is alive"]
    assert finding.verdict == "fail"
    assert "no gradient comes back through the student" in finding.reason


class Raises(Whole):
    def synthesize(self, round: Round) -> SyntheticBatch:
        raise KeyError("nowhere")


def test_a_stage_that_raises_fails_with_what_it_raised():
    (finding,) = check_stage(Raises)
    assert (finding.check, finding.verdict) == ("comes through a run", "fail")
    assert finding.reason == "KeyError: 'nowhere'; 12 further checks wait for this"
    line = inspect.getsourcelines(Raises.synthesize)[1] + 1
    assert finding.where.endswith(f"test_contract.py:{line}")
    assert str(finding).endswith(f"({finding.where})")


class Refuses(Whole):
    def __init__(self, options: Any, context: Any) -> None:
        raise DfkdError("its model is not at hand: give it with model=FOLDER")


def test_a_stage_that_cannot_be_made_here_is_skipped_with_its_sentence():
    (finding,) = check_stage(Refuses)
    assert (finding.check, finding.verdict) == ("comes through a run", "skipped")
    assert finding.reason == "it cannot be made here: its model is not at hand: give it with model=FOLDER"


def test_an_option_without_another_value_is_named_and_not_failed():
    class Named(Whole):
        class Options(PixelOptions):
            label: str = Field("a", description="a free text")

    finding = by_check(Named)["each option changes something"]
    assert (finding.verdict, finding.reason) == ("pass", "not tried, for want of another value: label")


def test_examples_of_a_field_are_tried():
    class Exemplary(Whole):
        class Options(PixelOptions):
            label: str = Field("a", description="a free text", examples=["b"])

    assert by_check(Exemplary)["each option changes something"].reason.startswith("nothing depends on 'label'")


def test_an_option_that_another_switches_on_counts():
    class SwitchedOff(Whole):
        class Options(PixelOptions):
            mirror: bool = Field(False, description="mirror")
            shade: float = Field(0.5, ge=0, le=1, description="how dark the mirrored ones are")

        def finish(self, pixels: Tensor) -> Tensor:
            return super().finish(pixels.flip(3) * self.options.shade if self.options.mirror else pixels)

    assert by_check(SwitchedOff)["each option changes something"].verdict == "pass"


def test_what_is_no_stage_is_refused():
    with pytest.raises(DfkdError, match="is no Synthesizer"):
        check_stage(dict)


def test_options_with_no_valid_defaults_need_settings():
    class Needy(Whole):
        class Options(PixelOptions):
            needed: float = Field(ge=0, le=1, description="no default")

        def finish(self, pixels: Tensor) -> Tensor:
            return super().finish(pixels * self.options.needed)

    with pytest.raises(DfkdError, match="give options that it takes"):
        check_stage(Needy)
    assert_contract(Needy, {"needed": 0.5})


# --- what it is played with ---


def test_counts_are_cut_by_the_words_in_their_names():
    class Options(StageOptions):
        steps: int = Field(500, description="x")
        warmup_steps: int | None = Field(None, description="x")
        timesteps: int = Field(1000, description="x")
        batch_size: int = Field(256, description="x")
        reset_round: int = Field(120, description="x")
        lr: float = Field(500.0, description="x")

    small = shrunk(Options())
    assert small.model_dump() == {
        "steps": 3,
        "warmup_steps": None,
        "timesteps": 1000,
        "batch_size": 13,
        "reset_round": 120,
        "lr": 500.0,
    }


def test_other_values_are_valid_ones_and_never_the_same():
    values = [options.lr for options in alternatives(PixelOptions(), "lr")]
    assert len(values) == len(set(values)) > 3
    assert 0.1 not in values
    assert all(value > 0 for value in values)


def test_student_and_teacher_agree_often_but_not_always(tmp_path):
    world = World(tmp_path, make_card())
    images = world.batch("any", 300).images
    agree = (world.student(images).argmax(1) == world.teacher(images).argmax(1)).float().mean().item()
    assert 0.5 < agree < 1


# --- by name ---


def test_a_method_is_checked_stage_by_stage():
    registry = registry_with(
        synthesizer={"whole": Whole}, method=[Method(name="m", summary="s", synthesizer=use("whole"))]
    )
    stages = list(dict.fromkeys(finding.stage for finding in check_name("m", registry, behavior=False)))
    assert stages == ["synthesizer whole", "augmenter none", "filter all", "distiller kd"]


def test_an_unknown_name_is_a_sentence_with_the_nearest():
    assert "deepinversion" in cli("check", "deepinversoin").sentence()


def test_options_for_a_stage_are_set_and_refused_by_the_command():
    assert cli("check", "noise", "--set", "synthesizer.batch_size=4").code == 0
    assert "no option 'batch'" in cli("check", "kd", "--set", "distiller.batch=4").sentence()
    for nothing in ("synthesizer.batch_size", "batch_size=4"):
        assert "sets nothing: write stage.option=value" in cli("check", "noise", "--set", nothing).sentence()
    unknown = "unknown stage in --set "
    assert f"{unknown}'synthesiser': did you mean synthesizer" in refused("noise", "synthesiser.batch_size=4")
    assert f"{unknown}'schedule'" in refused("noise", "schedule.epochs=4")
    assert f"{unknown}'augmenter'" in refused("kd", "augmenter.strength=0.5")
    assert "names a method" in refused("noise", "noise:synthesizer.batch_size=4")


def test_a_gpu_that_is_not_there_is_a_sentence_and_exit_status_2(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = cli("check", "kd", "--device", "cuda")
    assert refused.code == 2
    assert "no CUDA device was found" in refused.sentence()
    with pytest.raises(DfkdError, match="no CUDA device"):
        check_stage(Whole, device="cuda")


def test_on_a_gpu_the_same_twice_may_differ_by_rounding_and_on_a_cpu_by_nothing():
    whole = torch.linspace(0, 1, 100)
    rounded, noisy, jumped = whole + 1e-4, whole + 0.01, whole.clone()
    jumped[7] += 0.5  # one pixel in a hundred: Adam's whole step where a gradient is nearly zero
    assert not any(same([(whole,)], [(other,)]) for other in (rounded, noisy, jumped))
    # Where a tensor says that it is on a GPU.
    with mock.patch.object(episode, "_on_gpu", return_value=True):
        assert [same([(whole,)], [(other,)]) for other in (whole, rounded, jumped, noisy)] == [True, True, True, False]
        assert not same([(whole,)], [(whole[:50],)])
    assert equal([(whole,)], [(whole.clone(),)]) and not equal([(whole,)], [(rounded,)])


def refused(name, setting):
    return cli("check", name, "--set", setting).sentence()


def test_the_command_prints_each_check_with_its_verdict():
    done = cli("check", "kd")
    assert done.code == 0
    assert "distiller kd" in done.out
    assert "skipped the adversary is alive: a distiller has no adversary" in done.out
    assert done.out.rstrip().endswith("11 passed, 0 failed, 1 skipped")
