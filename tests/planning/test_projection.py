"""Projected operations against what the cost ledger counted in the committed runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from dfkd_bench.datasets.cards import DIGITS
from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.planning.projection import in_flops, project, sentence
from dfkd_bench.planning.requests import Override, Request, resolve
from dfkd_bench.results.records import Record, Results
from dfkd_bench.spec import Pair, RunSpec, TeacherRef

RECORDS = Results(Path(__file__).parents[2] / "results" / "reference" / "digits-quick")


def record_of(method: str) -> Record:
    found = [record for record in RECORDS.records(_raise) if record.spec.method == method]
    return min(found, key=lambda record: record.spec.seed)


def _raise(error: Exception) -> None:
    raise error


def spec_of(method: str, *overrides: str, preset: str = "quick", **swaps: str) -> RunSpec:
    pair, registry = Pair(teacher="resnet8", student="resnet8"), default_registry()
    parsed = [Override.parse(each) for each in overrides]
    request = Request(
        [method],
        [pair],
        "digits",
        TeacherRef(sha256="0" * 64),
        preset,
        swaps=swaps,
        overrides=parsed,  # type: ignore[arg-type]
    )
    return resolve(registry.load("method", method), request, pair, 0, registry)


@pytest.mark.parametrize("method", ["dda", "cmi", "fast", "deepinversion", "noise"])
def test_the_projection_is_what_the_ledger_counted(method: str) -> None:
    record = record_of(method)
    projected = project(record.spec, DIGITS, default_registry())
    for phase, flops in projected.items():
        counted = record.cost[phase]["flops"] if phase in record.cost else 0
        assert flops == pytest.approx(counted, rel=0.05), phase


def test_a_class_conditional_model_and_the_variants_count() -> None:
    registry = default_registry()
    one, eight = (
        project(spec_of("dda", f"augmenter.variants={count}"), DIGITS, registry)["augmentation"] for count in (1, 8)
    )
    training = project(spec_of("dda", "augmenter.train_steps=600"), DIGITS, registry)["augmentation"]
    assert one is not None and eight is not None and training is not None
    assert one < eight < 8 * one  # its training is paid once
    assert one < training < 2 * one
    told = project(spec_of("dda", "augmenter.class_conditional=true"), DIGITS, registry)["augmentation"]
    assert told == one  # a table of classes is no multiplication


def test_the_images_that_are_wanted_make_the_rounds() -> None:
    registry = default_registry()
    rounds = spec_of("dda", "schedule.warmup_rounds=3", "synthesizer.batch_size=96")
    images = spec_of("dda", "schedule.warmup_rounds=0", "schedule.initial_images=250", "synthesizer.batch_size=96")
    by_rounds, by_images = (project(spec, DIGITS, registry) for spec in (rounds, images))
    assert by_rounds["synthesis"] == by_images["synthesis"]  # three rounds of 96 make 250
    assert by_rounds["filtering"] is not None
    assert by_images["filtering"] == pytest.approx(by_rounds["filtering"] * 250 / 288)


def test_what_no_stage_projects_is_said() -> None:
    flops = project(spec_of("dafl"), DIGITS, default_registry())
    assert flops["synthesis"] is None
    assert "synthesis not projected, augmentation 0, filtering 0, distillation" in sentence(flops)
    assert "in all" not in sentence(flops)


def test_numbers_have_units() -> None:
    assert [in_flops(n) for n in (0, 999, 1500, 9.56e18, 2e21)] == [
        "0",
        "999 FLOP",
        "1.5 kFLOP",
        "9.56 EFLOP",
        "2e+03 EFLOP",
    ]
