from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from dfkd_bench import Schedule
from dfkd_bench.runs.segments import Segment, segments


def plan(**fields: Any) -> list[Segment]:
    return segments(Schedule(**{"batch_size": 8, "lr": 0.1, "epochs": 2, "steps_per_epoch": 7, **fields}))


def test_a_warm_up_fills_the_bank_which_is_then_augmented():
    assert plan(warmup_rounds=2, rounds_per_epoch=1) == [
        Segment(
            "warmup",
        ),
        Segment(
            "warmup",
        ),
        Segment("augment"),
        Segment("distill", epoch=0, steps=7, ends_epoch=True),
        Segment("distill", epoch=1, steps=7, ends_epoch=True),
    ]


def test_the_steps_that_do_not_divide_go_to_the_last_round_of_the_epoch():
    assert plan(rounds_per_epoch=3, steps_per_epoch=11) == [
        Segment("distill", epoch=0, steps=3, ends_epoch=False),
        Segment("distill", epoch=0, steps=3, ends_epoch=False),
        Segment("distill", epoch=0, steps=5, ends_epoch=True),
        Segment("distill", epoch=1, steps=3, ends_epoch=False),
        Segment("distill", epoch=1, steps=3, ends_epoch=False),
        Segment("distill", epoch=1, steps=5, ends_epoch=True),
    ]


def test_without_a_warm_up_there_is_nothing_to_augment_beforehand():
    assert [segment.kind for segment in plan(rounds_per_epoch=1)] == ["distill", "distill"]


def test_without_rounds_in_the_epochs_an_epoch_is_one_segment():
    assert plan(warmup_rounds=1, rounds_per_epoch=0) == [
        Segment(
            "warmup",
        ),
        Segment("augment"),
        Segment("distill", epoch=0, steps=7, ends_epoch=True),
        Segment("distill", epoch=1, steps=7, ends_epoch=True),
    ]


def test_a_schedule_that_synthesizes_nothing_or_has_rounds_without_steps_is_refused():
    with pytest.raises(ValidationError, match="nothing would be synthesized"):
        plan(warmup_rounds=0, rounds_per_epoch=0)
    with pytest.raises(ValidationError, match="must not exceed steps_per_epoch"):
        plan(rounds_per_epoch=8)


def test_initial_images_are_one_segment_that_is_done_until_they_are_there():
    assert plan(initial_images=20, rounds_per_epoch=0)[:2] == [Segment("warmup", images=20), Segment("augment")]
    assert [segment.kind for segment in plan(initial_images=20)] == ["warmup", "augment", "distill", "distill"]


def test_initial_images_beside_rounds_or_above_the_cap_are_refused():
    with pytest.raises(ValidationError, match="so warmup_rounds must be 0 beside it"):
        plan(initial_images=20, warmup_rounds=1)
    with pytest.raises(ValidationError, match="must not exceed bank_capacity"):
        plan(initial_images=20, bank_capacity=19)
    assert plan(initial_images=20, bank_capacity=20)


def test_steps_grow_with_the_epochs():
    growing = Schedule(batch_size=8, lr=0.1, epochs=200, steps_per_epoch=4, rounds_per_epoch=3, growing=True)
    assert [growing.steps_in(epoch) for epoch in (0, 1, 199)] == [4, 8, 800]
    assert growing.steps_until(200) == 80_400  # GapSSG's
    steps = segments(growing)
    assert [segment.steps for segment in steps[:6]] == [1, 1, 2, 2, 2, 4]
    assert sum(segment.steps for segment in steps) == 80_400


def test_steps_that_grow_past_all_bounds_are_refused():
    with pytest.raises(ValidationError, match="epochs times steps_per_epoch as they grow must not exceed"):
        plan(growing=True, epochs=100_000, rounds_per_epoch=1)


def test_nesterov_momentum_is_sgds():
    with pytest.raises(ValidationError, match="with adamw, nesterov must be false"):
        plan(optimizer="adamw", nesterov=True)
