import math

import pytest
import torch
from support.e2e_kit import make_spec, registry_with
from support.method_kit import CPU, Fixed, make_card, make_context, make_network, stream

from dfkd_baselines.references import (
    CrossEntropy,
    OneImage,
    OneImageOptions,
    OtherDataset,
    OtherDatasetOptions,
    RealData,
    RealDataOptions,
    to_card,
)
from dfkd_bench.card import TrainTransform
from dfkd_bench.datasets.split import Split
from dfkd_bench.environment import Execution
from dfkd_bench.errors import DfkdError
from dfkd_bench.hooks.registry import STAGE_KINDS
from dfkd_bench.runs.stage_set import StageSet
from dfkd_bench.stages.bank import SyntheticBatch
from dfkd_bench.stages.base import Round, StageOptions, Synthesizer
from dfkd_bench.stages.ledger import CostLedger

ROUND = Round(0, warmup=False)


def guesses(context, images):
    return context.teacher(images).argmax(dim=1)


# --- images of one kind as images of another -------------------------------------------------------------------------


def test_color_becomes_gray_by_the_mean_and_gray_becomes_color_by_repetition():
    color = torch.tensor([0.1, 0.2, 0.6]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    gray = to_card(color, make_card(1, 4))
    assert gray.shape == (1, 1, 4, 4)
    torch.testing.assert_close(gray, torch.full((1, 1, 4, 4), 0.3))
    picture = torch.rand(2, 1, 4, 4, generator=stream())
    assert torch.equal(to_card(picture, make_card(3, 4)), torch.cat([picture] * 3, dim=1))


def test_images_that_fit_are_left_as_they_are():
    images = torch.rand(2, 3, 8, 8, generator=stream())
    assert torch.equal(to_card(images, make_card()), images)


def test_shrinking_weighs_the_pixels_by_their_distance():
    # Half as large: a pixel at distance d of the center, in pixels, weighs 1 - d / 2; here 3/4, 3/4 and 1/4.
    images = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 4, 4)
    found = to_card(images, make_card(1, 2))
    torch.testing.assert_close(found, torch.tensor([1 / 7, 6 / 7]).expand(1, 1, 2, 2))


def test_growing_keeps_a_plain_image_plain():
    found = to_card(torch.full((1, 3, 4, 4), 0.4), make_card(3, 12))
    torch.testing.assert_close(found, torch.full((1, 3, 12, 12), 0.4))


# --- one image -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "side"), [(1, 8), (3, 12)])
def test_crops_of_one_image_have_the_cards_shape_and_the_teachers_guesses(channels, side):
    card = make_card(channels, side)
    context = make_context(card)
    batch = OneImage(OneImageOptions(batch_size=20), context).synthesize(ROUND)
    batch.check(card.image_shape, card.num_classes)
    assert len(batch) == 20
    assert torch.equal(batch.targets, guesses(context, batch.images))
    # A crop each, of a real picture: they differ among themselves and within.
    assert torch.pdist(batch.images.flatten(1)).min() > 1e-3
    assert batch.images.std(dim=(1, 2, 3)).median() > 0.02


@pytest.mark.parametrize("picture", ["china.jpg", "flower.jpg"])
def test_crops_of_the_whole_image_are_the_image_in_its_colors(picture):
    card = make_card(3, 8)
    made = OneImage(OneImageOptions(batch_size=30, smallest_area=1.0, picture=picture), make_context(card))
    images = made.synthesize(ROUND).images
    # The picture's own mean colors, to within what ratio and resampling change.
    from sklearn.datasets import load_sample_image

    colors = torch.from_numpy(load_sample_image(picture).copy()).float().mean(dim=(0, 1)) / 255
    torch.testing.assert_close(images.mean(dim=(0, 2, 3)), colors, atol=0.05, rtol=0)


def test_the_other_picture_gives_other_images():
    one, other = (
        OneImage(OneImageOptions(batch_size=4, picture=picture), make_context()).synthesize(ROUND).images
        for picture in ("china.jpg", "flower.jpg")
    )
    assert (one.mean(dim=(0, 2, 3)) - other.mean(dim=(0, 2, 3))).abs().max() > 0.02


def test_one_image_owns_up_to_an_image_and_asks_for_no_dataset():
    assert OneImage.prior_with(OneImageOptions()) == "image"
    assert OneImage.images_wanted(OneImageOptions(), make_card()) is None


# --- another dataset -------------------------------------------------------------------------------------------------


def plain_images(*values: int, channels: int = 1, side: int = 4) -> torch.Tensor:
    """uint8, one plain image of each value."""
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, channels, side, side).contiguous()


def test_another_datasets_images_come_in_the_cards_shape_with_the_teachers_guesses():
    card = make_card(3, 8)
    context = make_context(card, images=plain_images(0, 51, 255))
    batch = OtherDataset(OtherDatasetOptions(batch_size=40), context).synthesize(ROUND)
    batch.check(card.image_shape, card.num_classes)
    assert len(batch) == 40
    # Values 0, 51 and 255 of 255, each image plain, all of them drawn.
    values = batch.images.flatten(1)
    assert (values - values[:, :1]).abs().max() < 1e-6
    assert sorted({round(value, 5) for value in values[:, 0].tolist()}) == [0.0, 0.2, 1.0]
    assert torch.equal(batch.targets, guesses(context, batch.images))


def test_the_other_dataset_owns_up_to_images_and_asks_for_the_dataset_it_is_told():
    options = OtherDatasetOptions(dataset="somewhere")
    assert OtherDataset.prior_with(options) == "image"
    assert OtherDataset.images_wanted(options, make_card()) == "somewhere"
    assert OtherDataset.requires_with(options) == frozenset()


# --- the real data ---------------------------------------------------------------------------------------------------


def real_data(**changes) -> RealData:
    card = make_card(1, 4, **changes)
    return RealData(RealDataOptions(preview=2), make_context(card, images=plain_images(10, 60, 110), labels=LABELS))


LABELS = torch.tensor([2, 0, 1])


def test_samples_of_the_real_data_are_images_with_their_own_labels():
    made = real_data()
    batch = made.sample(50)
    batch.check((1, 4, 4), 3)
    wanted = {2: 10, 0: 60, 1: 110}
    assert set(batch.targets.tolist()) == {0, 1, 2}
    for image, target in zip(batch.images, batch.targets.tolist(), strict=True):
        torch.testing.assert_close(image, torch.full((1, 4, 4), wanted[target] / 255))
    assert not torch.equal(made.sample(50).targets, batch.targets)


def test_samples_of_the_real_data_go_through_the_cards_transform():
    batch = real_data(transform=TrainTransform(padding=1)).sample(50)
    # Cropped back from a black border of one: the center stays, some of the corners are black.
    value = torch.tensor([60, 110, 10])[batch.targets] / 255
    torch.testing.assert_close(batch.images[:, 0, 1:3, 1:3], value[:, None, None].expand(-1, 2, 2))
    corner = batch.images[:, 0, 0, 0]
    assert 0 < (corner == 0).sum() < 50


def test_a_round_of_the_real_data_shows_its_first_images():
    batch = real_data().synthesize(ROUND)
    assert batch.targets.tolist() == [2, 0]
    torch.testing.assert_close(batch.images[:, 0, 0, 0], torch.tensor([10 / 255, 60 / 255]))


def test_the_real_data_owns_up_to_it_and_asks_for_the_runs_own_dataset():
    assert RealData.prior_with(RealDataOptions()) == "data"
    assert RealData.images_wanted(RealDataOptions(), make_card(name="mine")) == "mine"
    assert RealData.stream is True


def test_the_cross_entropy_is_that_of_the_targets_and_asks_no_teacher():
    def no_teacher(images):
        raise AssertionError("the teacher was asked")

    batch = SyntheticBatch(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]))
    # The student gives the right classes 2/3 and 1/4.
    student = Fixed([[math.log(2), 0.0], [math.log(3), 0.0]])
    losses = CrossEntropy(StageOptions(), make_context()).losses(student, no_teacher, batch)
    wanted = -(math.log(2 / 3) + math.log(1 / 4)) / 2
    assert {name: loss.item() for name, loss in losses.items()} == pytest.approx({"target": wanted})


# --- the door --------------------------------------------------------------------------------------------------------

OWN, OTHER = make_card(name="own", channels=1, side=4), make_card(name="other", channels=1, side=4)
SPLITS = {
    "own": Split.of(plain_images(10, 60, 110), LABELS),
    "other": Split.of(plain_images(1, 2, 3), torch.tensor([0, 1, 2])),
}


def asking(for_: str | None, owning: str) -> type[Synthesizer]:
    class Asking(Synthesizer[StageOptions]):
        Options = StageOptions
        prior = owning

        @classmethod
        def images_wanted(cls, options, card):
            return for_

    return Asking


def stage_set(synthesizer: str, options=None, **strange) -> tuple[StageSet, object]:
    loaders = [(card, lambda split, root, name=card.name: SPLITS[name]) for card in (OWN, OTHER)]
    registry = registry_with(dataset=loaders, synthesizer=strange)
    spec = make_spec(dataset="own", synthesizer={"name": synthesizer, "options": options or {}})
    return StageSet(spec, registry, OWN), registry


def made_stages(synthesizer: str, options=None, **strange) -> StageSet:
    stages, registry = stage_set(synthesizer, options, **strange)
    execution = Execution(CPU, torch.float32)
    images = stages.open_door(registry, execution)
    streams = {kind: stream() for kind in STAGE_KINDS}
    teacher, student = make_network(OWN, 1), make_network(OWN, 2)
    stages.make(teacher, student, execution, streams, CostLedger(CPU), lambda kind, data: None, images)
    return stages


@pytest.mark.parametrize(
    ("wanted", "owned", "honest"),
    [
        ("own", "none", "data"),
        ("own", "text", "data"),
        ("own", "image", "data"),
        ("other", "none", "image"),
        ("other", "text", "image"),
    ],
)
def test_a_synthesizer_that_wants_images_and_does_not_own_up_to_it_is_refused_in_one_sentence(wanted, owned, honest):
    with pytest.raises(DfkdError) as refused:
        stage_set("thief", thief=asking(wanted, owned))
    sentence = f"the synthesizer 'thief' wants {wanted}'s images: its prior must say '{honest}', not '{owned}'"
    assert str(refused.value) == sentence


@pytest.mark.parametrize(("wanted", "owned"), [("own", "data"), ("other", "image"), ("other", "data")])
def test_one_that_owns_up_to_it_is_given_the_images(wanted, owned):
    stages = made_stages("honest", honest=asking(wanted, owned))
    assert torch.equal(stages.synthesizer.context.images, SPLITS[wanted].images)


def test_another_dataset_that_is_the_runs_own_is_refused():
    with pytest.raises(DfkdError, match="its prior must say 'data', not 'image'"):
        stage_set("other-dataset", {"dataset": "own"})


def test_labels_are_handed_only_with_the_runs_own_dataset():
    own, other = made_stages("real-data"), made_stages("other-dataset", {"dataset": "other"})
    assert torch.equal(own.synthesizer.context.labels, LABELS)
    assert torch.equal(other.synthesizer.context.images, SPLITS["other"].images)
    assert other.synthesizer.context.labels is None


def test_no_stage_but_the_synthesizer_is_handed_images():
    stages = made_stages("real-data").all()
    assert stages["synthesizer"].context.images is not None
    for kind in ("augmenter", "filter", "distiller"):
        assert stages[kind].context.images is None
        assert stages[kind].context.labels is None


def test_a_synthesizer_that_asks_for_nothing_is_handed_nothing():
    stages = made_stages("plain", plain=asking(None, "none"))
    assert stages.wanted is None
    assert stages.synthesizer.context.images is None
    assert stages.synthesizer.context.labels is None
