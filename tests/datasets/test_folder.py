import json

import pytest
import torch
from support.folder_kit import cache, chw, image_folders, picture, refused, root, save

from dfkd_bench.card import TrainTransform
from dfkd_bench.datasets.folder import open_folder
from dfkd_bench.errors import DfkdError

__all__ = ["cache", "root"]

# --- folders of images


@pytest.mark.parametrize("test", ["test", "valid", "val", "validation"])
def test_reads_folders_of_images(root, test):
    card, load = open_folder(image_folders(root, test))
    train, held = load("train", None), load("test", None)
    assert torch.equal(train.images, chw([picture(0), picture(1), picture(10), picture(11)]))
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert torch.equal(held.images, chw([picture(100), picture(101)]))
    assert held.labels.tolist() == [0, 1]
    assert card.class_names == ("ant", "bee")


def test_test_goes_before_validation(root):
    image_folders(root, "val")
    image_folders(root, "test")
    save(root / "test" / "bee" / "1.png", picture(7))
    assert len(open_folder(root)[1]("test", None)) == 3


def test_the_card_of_a_folder(root):
    card, _ = open_folder(image_folders(root))
    assert card.name == f"folder:{root}"
    assert card.num_classes == 2
    assert card.image_shape == (3, 16, 24)
    assert card.mean == card.std == (0.5, 0.5, 0.5)
    assert card.transform == TrainTransform(padding=2, flip=True)


def test_a_relative_path_gets_an_absolute_name(root, monkeypatch):
    image_folders(root)
    monkeypatch.chdir(root.parent)
    assert open_folder(type(root)("own"))[0].name == f"folder:{root}"


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "bmp", "webp"])
def test_other_formats_and_foreign_files(root, suffix):
    image_folders(root)
    save(root / "test" / "ant" / f"1.{suffix}", picture(5))
    (root / "test" / "ant" / "notes.txt").write_text("no image")
    (root / "test" / "README.md").write_text("no class")
    (root / "test" / ".hidden").mkdir()
    assert open_folder(root)[1]("test", None).labels.tolist() == [0, 0, 1]


def test_a_test_split_may_lack_a_class_and_keeps_the_labels(root):
    image_folders(root, train=("aardvark", "ant", "bee"))
    card, load = open_folder(root)
    assert card.class_names == ("aardvark", "ant", "bee")
    assert load("test", None).labels.tolist() == [1, 2]


def test_gray_images(root):
    card, load = open_folder(image_folders(root, shape=(16, 24)))
    assert card.image_shape == (1, 16, 24)
    assert card.mean == (0.5,)
    assert torch.equal(load("test", None).images[0, 0], torch.from_numpy(picture(100, (16, 24))))


def test_a_color_image_among_gray_ones(root):
    image_folders(root, shape=(16, 24))
    odd = save(root / "train" / "bee" / "1.png", picture(3))
    _, load = open_folder(root)
    refused(
        f"{odd} is in color (mode RGB) in a dataset of gray images: make all images gray, "
        "or all of them color by three values of mean in card.json",
        lambda: load("train", None),
    )
    (root / "card.json").write_text('{"mean": [0.4, 0.5, 0.6]}')
    card, load = open_folder(root)
    images = load("train", None).images
    assert card.image_shape == (3, 16, 24)
    assert torch.equal(images[3], chw([picture(3)])[0])
    assert torch.equal(images[0], torch.from_numpy(picture(0, (16, 24))).expand(3, 16, 24))


def test_without_training_images(root):
    image_folders(root, train=())
    card, load = open_folder(root)
    assert card.class_names == ("ant", "bee")
    assert len(load("test", None)) == 2
    refused(
        f"there is no training split in {root}: add it, or use a teacher that is trained already",
        lambda: load("train", None),
    )


def test_an_unknown_split_is_a_value_error(root):
    _, load = open_folder(image_folders(root))
    with pytest.raises(ValueError, match=r"^unknown split 'valid': train or test$"):
        load("valid", None)


# --- folders that are refused


LAYOUT = (
    "give it a sub-folder 'test' (and 'train') with one folder of images for each class, "
    "or parquet files test-*.parquet (and train-*.parquet)"
)


def test_no_folder(root):
    refused(f"there is no folder {root}: give folder:PATH of a dataset of your own", lambda: open_folder(root))


def test_no_test_split(root):
    image_folders(root, "holdout")
    refused(f"there is no test split in {root}: {LAYOUT}", lambda: open_folder(root))


def test_an_empty_folder(root):
    root.mkdir()
    refused(f"there is no test split in {root}: {LAYOUT}", lambda: open_folder(root))


def test_an_empty_split(root):
    image_folders(root, train=())
    (root / "train").mkdir()
    refused(
        f"{root / 'train'} is empty: put one folder of images for each class there",
        lambda: open_folder(root),
    )


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class(root, split):
    image_folders(root)
    (root / split / "bee" / "0.png").unlink()
    (root / split / "bee" / "1.png").unlink(missing_ok=True)
    _, load = open_folder(root)
    refused(
        f"{root / split / 'bee'} holds no image (bmp, jpeg, jpg, png, webp): put the class's images there",
        lambda: load(split, None),
    )


def test_one_class(root):
    image_folders(root, train=("ant",))
    refused(f"{root} has 1 class: a dataset needs two classes or more", lambda: open_folder(root))


def test_a_class_that_the_training_split_lacks(root):
    image_folders(root)
    save(root / "test" / "beee" / "0.png", picture(1))
    _, load = open_folder(root)
    refused(
        f"{root / 'test' / 'beee'} is not a class of the training split: unknown class 'beee': did you mean bee?",
        lambda: load("test", None),
    )


def test_two_sizes(root):
    image_folders(root)
    odd = save(root / "test" / "bee" / "1.png", picture(3, (16, 20, 3)))
    _, load = open_folder(root)
    first = root / "train" / "ant" / "0.png"
    refused(f"{odd} is 20x16 but {first} is 24x16: all images must have one size", lambda: load("test", None))


def test_an_unreadable_image(root):
    image_folders(root)
    odd = root / "train" / "bee" / "0.png"
    odd.write_bytes(b"no image")
    _, load = open_folder(root)
    with pytest.raises(DfkdError, match=rf"^{odd} cannot be decoded as an image \(.+\): repair or replace it$"):
        load("train", None)


def test_an_unreadable_first_image(root):
    image_folders(root)
    odd = root / "train" / "ant" / "0.png"
    odd.write_bytes(b"no image")
    with pytest.raises(DfkdError, match=rf"^{odd} cannot be decoded as an image \(.+\): repair or replace it$"):
        open_folder(root)


def test_an_image_without_rights(root, monkeypatch):
    image_folders(root)

    def denied(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("os.open", denied)
    file = root / "train" / "ant" / "0.png"
    refused(f"cannot read {file} (Permission denied)", lambda: open_folder(root))


# --- card.json


def test_card_json_overrides(root):
    image_folders(root)
    stored = {
        "class_names": ["Formica", "Apis"],
        "mean": [0.1, 0.2, 0.3],
        "std": [0.2, 0.3, 0.4],
        "transform": {"padding": 1, "flip": False},
    }
    (root / "card.json").write_text(json.dumps(stored))
    card, load = open_folder(root)
    assert card.class_names == ("Formica", "Apis")
    assert card.mean == (0.1, 0.2, 0.3)
    assert card.std == (0.2, 0.3, 0.4)
    assert card.transform == TrainTransform(padding=1, flip=False)
    assert load("train", None).labels.tolist() == [0, 0, 1, 1]


KNOWN = "it may hold class_names, mean, std, transform"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"means": [0.5]}', "means: Extra inputs are not permitted"),
        ('{"std": [0.5, 0, 0.5]}', "std.1: Input should be greater than 0"),
        ('{"transform": {"pad": 1}}', "transform.pad: Extra inputs are not permitted"),
        ("[]", "Input should be an object"),
    ],
)
def test_card_json_with_mistakes(root, text, reason):
    image_folders(root)
    (root / "card.json").write_text(text)
    refused(f"{root / 'card.json'} is no valid card ({reason}): {KNOWN}", lambda: open_folder(root))


def test_card_json_that_is_no_json(root):
    image_folders(root)
    (root / "card.json").write_text("{")
    with pytest.raises(DfkdError, match=rf"^{root / 'card.json'} is no valid card \(Invalid JSON: .+\): {KNOWN}$"):
        open_folder(root)


def test_card_json_that_cannot_be_read(root):
    image_folders(root)
    (root / "card.json").mkdir()
    refused(f"cannot read {root / 'card.json'}: it is a folder, not a file", lambda: open_folder(root))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"class_names": ["a"]}', "1 class names for 2 classes"),
        ('{"mean": [0.5, 0.5]}', "mean and std need one value per channel"),
        ('{"mean": [0.5, 0.5, 0.5], "std": [0.5]}', "mean and std need one value per channel"),
    ],
)
def test_card_json_that_does_not_fit(root, text, reason):
    image_folders(root)
    (root / "card.json").write_text(text)
    refused(f"{root / 'card.json'} does not fit the images ({reason}): fix it", lambda: open_folder(root))
