import json

import pyarrow.parquet as pq
import pytest
import torch
from support.folder_kit import cache, chw, parquet, picture, refused, root

from dfkd_bench.datasets.folder import open_folder
from dfkd_bench.errors import DfkdError

__all__ = ["cache", "root"]


@pytest.mark.parametrize("place", [".", "data"])
@pytest.mark.parametrize("test", ["test", "valid", "val", "validation"])
@pytest.mark.parametrize(("image", "label"), [("image", "label"), ("img", "labels")])
def test_reads_parquet_files(root, place, test, image, label):
    columns = {"image": image, "label": label}
    parquet(root / place / "train-1.parquet", [picture(3)], [2], **columns)
    parquet(root / place / "train-0.parquet", [picture(1), picture(2)], [1, 0], **columns)
    parquet(root / place / f"{test}-0.parquet", [picture(4)], [1], **columns)
    card, load = open_folder(root)
    assert card.class_names == ("0", "1", "2")
    assert card.image_shape == (3, 16, 24)
    train = load("train", None)
    assert torch.equal(train.images, chw([picture(1), picture(2), picture(3)]))
    assert train.labels.tolist() == [1, 0, 2]
    assert load("test", None).labels.tolist() == [1]


def test_parquet_class_names_come_from_the_metadata(root):
    parquet(root / "train-0.parquet", [picture(1)], [0], ["ant", "bee", "cow"])
    parquet(root / "test-0.parquet", [picture(2)], [2], ["ant", "bee", "cow"])
    card, load = open_folder(root)
    assert card.class_names == ("ant", "bee", "cow")
    assert load("test", None).labels.tolist() == [2]


def test_parquet_metadata_without_class_names(root):
    table = pq.read_table(parquet(root / "test-0.parquet", [picture(1), picture(2)], [0, 1]))
    stored = {"info": {"features": {"label": {"dtype": "int64", "_type": "Value"}}}}
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(stored)}), root / "test-0.parquet")
    assert open_folder(root)[0].class_names == ("0", "1")


def test_parquet_without_a_training_split(root):
    parquet(root / "test-0.parquet", [picture(1), picture(2)], [0, 1])
    card, load = open_folder(root)
    assert card.num_classes == 2
    assert len(load("test", None)) == 2
    with pytest.raises(DfkdError, match=r"^there is no training split in"):
        load("train", None)


def test_parquet_metadata_that_cannot_be_read(root):
    table = pq.read_table(parquet(root / "test-0.parquet", [picture(1), picture(2)], [0, 1]))
    pq.write_table(table.replace_schema_metadata({"huggingface": "{"}), root / "test-0.parquet")
    with pytest.raises(DfkdError, match=r"^the 'huggingface' metadata of .*test-0.parquet cannot be used \(Inv"):
        open_folder(root)


def test_parquet_splits_with_classes_in_another_order(root):
    parquet(root / "train-0.parquet", [picture(1)], [0], ["ant", "bee"])
    file = parquet(root / "test-0.parquet", [picture(2)], [0], ["bee", "ant"])
    _, load = open_folder(root)
    refused(
        f"{file} names its classes bee, ant but the training split has ant, bee: "
        "give both splits the same classes in the same order",
        lambda: load("test", None),
    )


def test_a_parquet_label_that_the_training_split_lacks(root):
    parquet(root / "train-0.parquet", [picture(1), picture(2)], [0, 1])
    file = parquet(root / "test-0.parquet", [picture(3), picture(4)], [1, 2])
    _, load = open_folder(root)
    refused(
        f"{file} row 1 has the label 2, outside 0..1: fix the labels, or put the right file there",
        lambda: load("test", None),
    )


def test_a_missing_parquet_shard(root):
    parquet(root / "train-00000-of-00001.parquet", [picture(1), picture(2)], [0, 1])
    parquet(root / "test-00000-of-00002.parquet", [picture(3)], [0])
    _, load = open_folder(root)
    refused(f"test-00001-of-00002.parquet is missing from {root}: put it there", lambda: load("test", None))


def test_parquet_images_of_two_sizes(root):
    file = parquet(root / "test-0.parquet", [picture(1), picture(2, (8, 24, 3))], [0, 1])
    _, load = open_folder(root)
    refused(
        f"{file} row 1 is 24x8 but {file} row 0 is 24x16: all images must have one size", lambda: load("test", None)
    )


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"image": "picture"}, "has the columns picture, label: one must be called image or img"),
        ({"label": "kind"}, "has the columns image, kind: one must be called label or labels"),
    ],
)
def test_parquet_files_without_the_columns(root, columns, sentence):
    file = parquet(root / "test-0.parquet", [picture(1), picture(2)], [0, 1], **columns)
    refused(f"{file} {sentence}", lambda: open_folder(root))


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_parquet_split_without_images(root, split):
    for each in ("train", "test"):
        parquet(root / f"{each}-0.parquet", [picture(1), picture(2)], [0, 1], ["ant", "bee"])
    file = parquet(root / f"{split}-0.parquet", [], [], ["ant", "bee"])
    refused(f"{file} holds no image: put the split's images there", lambda: open_folder(root)[1](split, None))


def test_an_empty_shard_among_others(root):
    parquet(root / "test-0.parquet", [], [])
    parquet(root / "test-1.parquet", [picture(1), picture(2)], [0, 1])
    card, load = open_folder(root)
    assert card.num_classes == 2
    assert torch.equal(load("test", None).images, chw([picture(1), picture(2)]))


def test_a_damaged_parquet_file(root):
    root.mkdir()
    (root / "test-0.parquet").write_bytes(b"no parquet")
    with pytest.raises(DfkdError, match=r"test-0.parquet cannot be read as parquet \(.+\): fetch it again$"):
        open_folder(root)
