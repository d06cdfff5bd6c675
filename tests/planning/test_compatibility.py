"""What a stage says before a run; what it refuses is in test_method_and_grid.py."""

from __future__ import annotations

import re
from typing import ClassVar

import pytest
import torch
from pydantic import Field
from support.e2e_kit import RECIPE, registry_with
from support.probes import WithoutBatchNorm

from dfkd_bench import Augmenter, NetworkFacts, StageOptions
from dfkd_bench.datasets.cards import DIGITS
from dfkd_bench.errors import DfkdError
from dfkd_bench.models.build import build_model
from dfkd_bench.planning.compatibility import network_facts, warnings
from dfkd_bench.planning.requests import Override, Request, plan, resolve
from dfkd_bench.spec import Pair, TeacherRef


class WarnerOptions(StageOptions):
    whole: int = Field(1, description="a whole number")


class Warner(Augmenter[WarnerOptions]):
    Options = WarnerOptions
    given: ClassVar[list[NetworkFacts]] = []

    @classmethod
    def warn_with(cls, options, teacher, card):
        cls.given.append(teacher)
        return f"{options.whole} of {card.name}" if options.whole > 1 else None


@pytest.mark.parametrize(
    ("teacher", "batchnorm", "stage_inputs"),
    [("resnet34", 8512, (64, 64, 128, 256)), ("wrn16_1", 464, (16, 16, 32)), ("plain-net", 0, None)],
)
def test_a_stage_can_warn_before_the_run_by_its_options_the_teacher_and_the_card(teacher, batchnorm, stage_inputs):
    registry = registry_with(augmenter={"warner": Warner}, model={"plain-net": WithoutBatchNorm})
    pair = Pair.parse(f"{teacher}:resnet8")
    del Warner.given[:]

    def warned(whole: int) -> list[str]:
        overrides = [Override("augmenter", "whole", whole)]
        asked = Request(
            ["noise"], [pair], "digits", TeacherRef(recipe=RECIPE), swaps={"augmenter": "warner"}, overrides=overrides
        )
        return list(warnings(resolve(registry.load("method", "noise"), asked, pair, 0, registry), DIGITS, registry))

    assert warned(1) == []
    assert warned(5) == [f"noise with the teacher {teacher}: 5 of digits"]
    assert [(sum(facts.batchnorm), facts.stage_inputs) for facts in Warner.given] == [(batchnorm, stage_inputs)] * 2


def planned(method: str, **swaps: str) -> list[str]:
    registry = registry_with()
    asked = Request([method], [Pair.parse("resnet8:resnet8")], "digits", TeacherRef(recipe=RECIPE), swaps=swaps)
    told: list[str] = []
    plan(asked, DIGITS, registry, lambda error: told.append(str(error)))
    return told


@pytest.mark.parametrize(
    ("method", "swaps", "sentences"),
    [
        ("dfq", {"augmenter": "classic", "filter": "agreement"}, ("augmenter 'classic'", "filter 'agreement'")),
        ("dfq", {"filter": "agreement"}, ("filter 'agreement'",)),
        ("dda", {"synthesizer": "real-data"}, ("augmenter 'self-diffusion'", "filter 'cosine'")),
        ("noise", {"filter": "agreement"}, ("filter 'agreement'",)),
        ("dda", {"augmenter": "none", "filter": "agreement"}, ("filter 'agreement'",)),
        ("dfq", {}, ()),
        ("dfq", {"augmenter": "none", "filter": "all"}, ()),
        ("noise", {"augmenter": "classic", "filter": "agreement"}, ()),
        ("dda", {"augmenter": "none"}, ()),  # the recipe without its augmentation
        ("dda", {"synthesizer": "real-data", "augmenter": "none", "filter": "all", "distiller": "kd"}, ()),
    ],
)
def test_a_stage_that_nothing_would_reach_is_refused_in_one_sentence(method, swaps, sentences):
    told = planned(method, **swaps)
    assert len(told) == len(sentences)
    for sentence, words in zip(told, sentences, strict=True):
        assert sentence.startswith(f"{method} cannot use the {words}: ")
        assert "\n" not in sentence


# --- networks and images ---

VIT = "timm/vit_tiny_patch16_224?depth=1&embed_dim=24&num_heads=3"


class FixedSize(WithoutBatchNorm):
    def __init__(self, classes: int, channels: int, image_size: tuple[int, int]) -> None:
        super().__init__(classes, channels)
        self.image_size = image_size


def test_a_network_that_wants_the_image_size_is_given_it():
    card = DIGITS.model_copy(update={"image_shape": (1, 12, 16)})
    assert build_model("fixed", card, registry_with(model={"fixed": FixedSize})).image_size == (12, 16)


def test_a_network_that_cannot_take_the_images_is_refused_at_planning():
    sentence = rf"^{re.escape(VIT)} cannot take digits's images \[1, 16, 16\]: .*height"
    for pair in (f"resnet8:{VIT}", f"{VIT}:resnet8"):
        with pytest.raises(DfkdError, match=sentence):
            plan(Request(["noise"], [Pair.parse(pair)], "digits", TeacherRef(recipe=RECIPE)), DIGITS, registry_with())


def test_what_is_known_of_a_network_takes_no_random_numbers():
    before = torch.get_rng_state()
    network_facts(VIT.replace("num_heads=3", "img_size=16&num_heads=3&patch_size=4"), DIGITS, registry_with())
    assert torch.equal(torch.get_rng_state(), before)
