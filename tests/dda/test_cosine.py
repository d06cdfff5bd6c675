from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from support.kit import make_card, make_context
from torch import Tensor, nn

from dfkd_bench import DfkdError, Network, StageContext, SyntheticBatch
from dfkd_bench.contract import check_stage
from dfkd_bench.hooks.registry import default_registry
from dfkd_dda.cosine import CosineFilter, CosineOptions, cosine_similarity


def test_the_cosine_is_raw_and_taken_row_by_row():
    augmented = torch.tensor([[3.0, 4.0], [1.0, 0.0], [-2.0, 0.0], [1.0, 1.0]])
    source = torch.tensor([[4.0, 3.0], [0.0, 5.0], [1.0, 0.0], [10.0, 10.0]])
    assert cosine_similarity(augmented, source).tolist() == pytest.approx([24 / 25, 0.0, -1.0, 1.0], abs=1e-6)


class _Pixels(nn.Module):
    """Its features are the four pixels; its logits are the first two and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)
        with torch.no_grad():
            self.out.weight.copy_(torch.tensor([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 0, 0]]))
            self.out.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.flatten(1))


@pytest.fixture
def context() -> StageContext:
    card = make_card(channels=1, side=2).model_copy(update={"mean": (0.0,), "std": (1.0,)})
    teacher = Network(_Pixels(), card).eval().requires_grad_(False)
    return make_context(card, teacher, teacher)


def batch(rows: list[list[float]], source: list[int] | None = None) -> SyntheticBatch:
    images = torch.tensor(rows).view(-1, 1, 2, 2)
    return SyntheticBatch(images, torch.zeros(len(rows), dtype=torch.int64), source and torch.tensor(source))


# At an angle of 60 degrees to each other; the variants of the second stand first.
SOURCES = batch([[1.0, 0.0, 0.0, 0.0], [0.25, math.sqrt(3) / 4, 0.0, 0.0]])
VARIANTS = batch(
    [
        [0.5, math.sqrt(3) / 2, 0.0, 0.0],  # of the second: 0 degrees
        [1.0, 0.0, 0.0, 0.0],  # of the second: 60 degrees, cosine 0.5
        [1.0, 0.0, 0.0, 0.0],  # of the first: 0 degrees
        [0.8, 0.0, 0.6, 0.0],  # of the first: cosine 0.8
        [0.6, 0.0, 0.8, 0.0],  # of the first: cosine 0.6
    ],
    [1, 1, 0, 0, 0],
)


@pytest.mark.parametrize(
    ("threshold", "kept"),
    [
        (0.75, [True, False, True, True, False]),
        (0.55, [True, False, True, True, True]),
        (0.45, [True, True, True, True, True]),
        (0.85, [True, False, True, False, False]),
        (-1.0, [True] * 5),
    ],
)
def test_a_variant_stays_where_its_cosine_to_its_own_source_reaches_the_threshold(context, threshold, kept):
    found = CosineFilter(CosineOptions(threshold=threshold), context).keep(VARIANTS, SOURCES)
    assert found.dtype == torch.bool and found.tolist() == kept


def test_a_variant_exactly_at_the_threshold_stays(context):
    # Half as long and in the same direction: the cosine is 1 to the last bit.
    variant, source = batch([[0.5, 0.0, 0.0, 0.0]], [0]), batch([[1.0, 0.0, 0.0, 0.0]])
    assert CosineFilter(CosineOptions(threshold=1.0), context).keep(variant, source).tolist() == [True]


def test_the_default_is_the_papers_threshold_on_the_teachers_features(context):
    options = CosineOptions()
    assert (options.threshold, options.embedding) == (0.75, "features")
    with pytest.raises(ValidationError):
        CosineOptions(threshold=1.5)


def test_logits_can_be_compared_instead(context):
    # The logits leave out the third pixel, in which the variants differ from their source.
    found = CosineFilter(CosineOptions(embedding="logits"), context).keep(VARIANTS, SOURCES)
    assert found.tolist() == [True, False, True, True, True]


def test_nothing_to_filter_is_no_error(context):
    nothing = VARIANTS.select(slice(0))
    assert CosineFilter(CosineOptions(), context).keep(nothing, SOURCES).tolist() == []


@pytest.mark.parametrize(("fraction", "kept"), [(0.4, [True, False, True, False, False]), (1.0, [True] * 5)])
def test_the_nearest_fraction_can_be_kept_instead(context, fraction, kept):
    assert CosineFilter(CosineOptions(fraction=fraction), context).keep(VARIANTS, SOURCES).tolist() == kept
    # A part of an image is an image.
    assert CosineFilter(CosineOptions(fraction=0.01), context).keep(VARIANTS, SOURCES).sum() == 1


def test_a_mixture_is_compared_with_the_nearest_of_its_parents(context):
    mixed = SyntheticBatch(VARIANTS.images[1:3], VARIANTS.targets[:2], torch.tensor([[1, 0], [1, 1]]))
    assert CosineFilter(CosineOptions(), context).keep(mixed, SOURCES).tolist() == [True, False]


def test_pixels_can_be_compared(context):
    # The teacher's features are the pixels here.
    found = CosineFilter(CosineOptions(embedding="pixels"), context).keep(VARIANTS, SOURCES)
    assert found.tolist() == [True, False, True, True, False]


def test_the_record_has_the_histogram_of_the_cosines(context):
    made = CosineFilter(CosineOptions(), context)
    made.keep(VARIANTS, SOURCES)
    (entry,) = made.report()["rounds"]
    assert (entry["seen"], entry["kept"]) == (5, 3)
    assert sum(entry["counts"]) == 5 and entry["counts"][19] == 2


def test_clips_embedding_can_be_compared_by_path_and_is_counted(context, models):
    folder = models["image-variation"] / "image_encoder"
    options = CosineOptions(embedding="clip", clip_model=str(folder), threshold=0.999)
    made = CosineFilter(options, context)
    assert CosineFilter.prior_with(options) == "image" and CosineFilter.unmet(options, None, None, None) is None
    copies = SyntheticBatch(SOURCES.images, SOURCES.targets, torch.tensor([0, 1]))
    swapped = SyntheticBatch(SOURCES.images, SOURCES.targets, torch.tensor([1, 0]))
    with context.ledger.phase("p") as cost:
        assert made.keep(copies, SOURCES).tolist() == [True, True]
    assert cost.forward["clip-encoder"] == 4
    assert made.keep(swapped, SOURCES).tolist() == [False, False]
    with pytest.raises(ValidationError, match="go together"):
        CosineOptions(embedding="clip")
    absent = CosineOptions(embedding="clip", clip_model="some/clip")
    assert "needs the CLIP image encoder 'some/clip'" in CosineFilter.unmet(absent, None, None, None)


def test_joined_filters_keep_what_each_keeps_and_tell_of_each(context):
    stage = default_registry().load("filter", "cosine+agreement")
    assert set(stage.Options.model_fields) == {f"cosine_{name}" for name in CosineOptions.model_fields}
    made = stage(stage.Options.model_validate({"cosine_threshold": 0.55}), context)
    with torch.no_grad():
        agree = context.teacher(VARIANTS.images).argmax(dim=1) == VARIANTS.targets
    near = torch.tensor([True, False, True, True, True])
    assert made.keep(VARIANTS, SOURCES).tolist() == (agree & near).tolist()
    assert 0 < int((agree & near).sum()) < int(near.sum())
    assert {name: part["rounds"][0]["kept"] for name, part in made.report().items()} == {
        "cosine": 4,
        "agreement": int(agree.sum()),
    }
    with pytest.raises(ValidationError):
        stage.Options.model_validate({"cosine_threshold": 7})
    with pytest.raises(ValidationError, match="go together"):
        stage.Options.model_validate({"cosine_embedding": "clip"})
    with pytest.raises(DfkdError, match="joins a filter with itself"):
        default_registry().load("filter", "cosine+cosine")
    assert [f for f in check_stage(stage) if f.verdict == "fail"] == []
