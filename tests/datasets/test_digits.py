import pytest
import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from dfkd_bench.datasets.cards import DIGITS
from dfkd_bench.datasets.digits import load
from dfkd_bench.datasets.split import Split


def test_sizes_and_proportions():
    train, test = load("train"), load("test")
    assert (len(train), len(test)) == (1438, 359)
    for split in (train, test):
        assert split.images.shape == (len(split), *DIGITS.image_shape)
        assert split.images.dtype == torch.uint8
        assert split.labels.dtype == torch.int64
        assert split.note is None
    assert (train.labels.bincount() + test.labels.bincount()).tolist() == [
        178, 182, 177, 183, 181, 182, 181, 179, 174, 180,
    ]  # fmt: skip
    assert test.labels.bincount().tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]


def test_the_splits_share_no_image():
    train, test = ({image.numpy().tobytes() for image in load(split).images} for split in ("train", "test"))
    assert not train & test


def test_the_pixels_are_a_bilinear_enlargement():
    digits = load_digits()
    expected = F.interpolate(torch.from_numpy(digits.images)[:, None] * 255 / 16, scale_factor=2, mode="bilinear")
    third_zero = torch.from_numpy(digits.target).eq(0).nonzero()[2].item()
    test = load("test")
    first_zero = test.images[test.labels == 0][0].double()
    assert (first_zero - expected[third_zero]).abs().max() <= 0.5
    assert test.images.max() == 255
    assert test.images.min() == 0


def test_the_card_holds_the_training_statistics():
    pixels = load("train").images.double() / 255
    assert DIGITS.mean == (round(pixels.mean().item(), 4),)
    assert DIGITS.std == (round(pixels.std(correction=0).item(), 4),)


def test_the_bytes_are_the_same_on_every_machine():
    assert load("train").fingerprint.startswith("62eb7514")
    assert load("test").fingerprint.startswith("8ac3db4d")


def test_an_unknown_split_is_a_value_error():
    with pytest.raises(ValueError, match=r"^unknown split 'valid': train or test$"):
        load("valid")


def test_a_fingerprint_is_of_shape_pixels_and_labels():
    images, labels = torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1])
    first = Split.of(images, labels).fingerprint
    changed = images.clone()
    changed[0, 0, 0, 0] = 1
    others = {
        Split.of(changed, labels).fingerprint,
        Split.of(images, labels.flip(0)).fingerprint,
        Split.of(images.reshape(2, 1, 1, 4), labels).fingerprint,
    }
    assert len(others | {first}) == 4
    assert first == Split.of(images.clone(), labels.clone()).fingerprint
    assert first == Split.of(images.permute(0, 1, 3, 2), labels).fingerprint


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), "images must be uint8"),
        (torch.zeros(2, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), "images must be uint8"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0]), r"labels must be int64 \[2\]"),
        (torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0.0, 1.0]), r"labels must be int64 \[2\]"),
    ],
)
def test_a_split_refuses_other_tensors(images, labels, sentence):
    with pytest.raises(ValueError, match=sentence):
        Split.of(images, labels)
