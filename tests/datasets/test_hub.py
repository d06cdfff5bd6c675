import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.hub_kit import ADVICE, COUNTS, TEST_FILE, cifar, load, pixels, png, refused, small, write

from dfkd_bench.datasets import hub
from dfkd_bench.errors import DfkdError

__all__ = ["small"]

# --- what is read


@pytest.mark.parametrize("place", [".", "data", "plain_text"])
def test_reads_files_beside_or_below(tmp_path, place):
    cifar(tmp_path / "cifar10" / place)
    split = load(tmp_path)
    assert torch.equal(split.images, torch.from_numpy(pixels(4)).permute(0, 3, 1, 2))
    assert split.images.dtype == torch.uint8
    assert split.labels.tolist() == [3, 1, 4, 1]
    assert split.labels.dtype == torch.int64
    assert split.note is None


def test_shards_are_read_in_order_and_the_hubs_suffix_is_accepted(tmp_path):
    cifar(tmp_path / "cifar10", "train-00001-of-00002-70d52db3c749a935.parquet", 4, seed=2)
    cifar(tmp_path / "cifar10", "train-00000-of-00002-1359597a978bc4fa.parquet", 4, seed=1)
    split = load(tmp_path, "train")
    both = np.concatenate([pixels(4, 1), pixels(4, 2)])
    assert torch.equal(split.images, torch.from_numpy(both).permute(0, 3, 1, 2))
    assert split.note is None


def test_cifar100_reads_fine_labels(tmp_path):
    write(tmp_path / "cifar100" / TEST_FILE, [png(one) for one in pixels(4)], [99, 0, 5, 7], label="fine_label")
    assert hub.load_cifar100("test", tmp_path).labels.tolist() == [99, 0, 5, 7]


def test_tiny_imagenet_reads_valid_and_makes_gray_images_color(tmp_path):
    images = list(pixels(3, size=64))
    gray = np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)
    encoded = [png(one) for one in [*images, gray]]
    write(tmp_path / "tiny_imagenet" / "valid-00000-of-00001.parquet", encoded, [0, 1, 2, 199], image="image")
    split = hub.load_tiny_imagenet("test", tmp_path)
    assert split.images.shape == (4, 3, 64, 64)
    assert torch.equal(split.images[3], torch.from_numpy(gray).expand(3, 64, 64))


def test_many_images_keep_their_order(tmp_path, monkeypatch):
    count = 700  # several chunks of the decoder's threads
    monkeypatch.setitem(hub.SPECS, "cifar10", replace(hub.SPECS["cifar10"], counts={"test": count}))
    plain = np.zeros((count, 32, 32, 3), np.uint8) + (np.arange(count) % 251).astype(np.uint8)[:, None, None, None]
    write(tmp_path / "cifar10" / TEST_FILE, [png(one) for one in plain], np.arange(count) % 10)
    assert torch.equal(load(tmp_path).images, torch.from_numpy(plain).permute(0, 3, 1, 2))


def test_a_part_of_the_training_images_has_a_note(tmp_path):
    cifar(tmp_path / "cifar10", "train-00001-of-00004.parquet", 2)
    split = load(tmp_path, "train")
    assert len(split) == 2
    assert split.note == "2 of 8 training images"
    assert load(tmp_path, "train").note == "2 of 8 training images"  # from the cache


def test_an_unknown_split_is_a_value_error(tmp_path):
    with pytest.raises(ValueError, match=r"^unknown split 'valid': train or test$"):
        load(tmp_path, "valid")


# --- which files are refused


def test_a_missing_folder(tmp_path):
    refused(f"there is no folder {tmp_path / 'cifar10'}: {ADVICE}", tmp_path)
    refused(f"there is no folder {tmp_path / 'no' / 'cifar10'}: {ADVICE}", tmp_path / "no")
    (tmp_path / "CIFAR10_").mkdir()
    (tmp_path / "cifar-10").mkdir()
    refused(f"there is no folder {tmp_path / 'cifar10'} (there is cifar-10): {ADVICE}", tmp_path)


def test_a_folder_without_the_split(tmp_path):
    folder = tmp_path / "cifar10"
    cifar(folder)
    (folder / "train-0.parquet").write_bytes(b"")
    refused(f"{folder} and its sub-folders hold no train-*-of-*.parquet: {ADVICE}", tmp_path, "train")


def test_a_folder_that_cannot_be_read(tmp_path, monkeypatch):
    folder = tmp_path / "cifar10"
    cifar(folder)

    def denied(self):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", denied)
    refused(f"the folder {folder} cannot be read (Permission denied): fix its path or permissions", tmp_path)


def test_files_in_two_places(tmp_path):
    folder = tmp_path / "cifar10"
    cifar(folder)
    cifar(folder / "data")
    refused(f"there are test-*.parquet files in {folder} and in {folder / 'data'}: keep those of one folder", tmp_path)


@pytest.mark.parametrize("second", ["test-00001-of-00002.parquet", "test-00000-of-00001-abcdef.parquet"])
def test_files_of_two_sets(tmp_path, second):
    folder = tmp_path / "cifar10"
    cifar(folder)
    cifar(folder, second)
    names = ", ".join(sorted([TEST_FILE, second]))
    refused(f"{folder} holds files that do not belong together ({names}): keep one set of them", tmp_path)


def test_a_missing_test_shard(tmp_path):
    cifar(tmp_path / "cifar10", "test-00000-of-00002.parquet")
    refused(f"test-00001-of-00002.parquet is missing from {tmp_path / 'cifar10'}: {ADVICE}", tmp_path)


@pytest.mark.parametrize(("file", "count"), [(TEST_FILE, 3), (TEST_FILE, 5), ("train-00000-of-00001.parquet", 7)])
def test_a_wrong_number_of_images(tmp_path, file, count):
    cifar(tmp_path / "cifar10", file, count)
    split = file.partition("-")[0]
    refused(
        f"the {split} files in {tmp_path / 'cifar10'} hold {count} images where cifar10 has {COUNTS[split]}: "
        "fetch them again from the hub's dataset uoft-cs/cifar10",
        tmp_path,
        split,
    )


def test_too_many_images_in_a_part(tmp_path, monkeypatch):
    monkeypatch.setitem(hub.SPECS, "cifar10", replace(hub.SPECS["cifar10"], counts={"train": 3}))
    cifar(tmp_path / "cifar10", "train-00000-of-00002.parquet", 4)
    with pytest.raises(DfkdError, match="hold 4 images where cifar10 has 3: fetch them again"):
        load(tmp_path, "train")


# --- damaged or wrong contents


def test_a_damaged_parquet_file(tmp_path):
    file = cifar(tmp_path / "cifar10")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DfkdError, match=rf"^{file} cannot be read as parquet \(.+\): fetch it again$"):
        load(tmp_path)


def test_damage_behind_a_sound_footer(tmp_path):
    file = cifar(tmp_path / "cifar10")
    content = bytearray(file.read_bytes())
    content[4:40] = b"\xff" * 36
    file.write_bytes(content)
    with pytest.raises(DfkdError, match=rf"^{file} cannot be read as parquet \(.+\): fetch it again$"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("columns", "sentence"),
    [
        ({"label": "fine"}, "has no column 'label' of integers, it has img (struct<bytes: binary, path: string>), "),
        ({"image": "picture"}, "has no column 'img' of structs with the encoded image in the field 'bytes', it has "),
    ],
)
def test_wrong_columns(tmp_path, columns, sentence):
    file = write(tmp_path / "cifar10" / TEST_FILE, [png(one) for one in pixels(4)], [0, 1, 2, 3], **columns)
    with pytest.raises(DfkdError, match="^" + re.escape(f"{file} {sentence}") + ".*: put the right file there$"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "sentence"),
    [
        (pa.array(["a", "b", "c", "d"]), pa.array([0, 1, 2, 3]), "has no column 'img' of structs"),
        (pa.array([{"path": "a"}] * 4), pa.array([0, 1, 2, 3]), "has no column 'img' of structs"),
        (pa.array([{"bytes": "a"}] * 4), pa.array([0, 1, 2, 3]), "has no column 'img' of structs"),
        (pa.array([{"bytes": b"a"}] * 4), pa.array([0.5, 1, 2, 3]), "has no column 'label' of integers"),
        (pa.array([{"bytes": b"a"}] * 4), pa.array([0, 1, None, 3]), "row 2 has no label: repair the file"),
        (pa.array([{"bytes": b"a"}, {"bytes": None}] * 2), pa.array([0, 1, 2, 3]), "row 1 has no image bytes: repair"),
        (pa.array([{"bytes": b"a"}, None] * 2), pa.array([0, 1, 2, 3]), "row 1 has no image bytes: repair"),
    ],
)
def test_wrong_types_and_gaps(tmp_path, images, labels, sentence):
    file = tmp_path / "cifar10" / TEST_FILE
    file.parent.mkdir()
    pq.write_table(pa.table({"img": images, "label": labels}), file)
    with pytest.raises(DfkdError, match="^" + re.escape(f"{file} {sentence}")):
        load(tmp_path)


def with_third(tmp_path, encoded):
    good = [png(one) for one in pixels(4)]
    return write(tmp_path / "cifar10" / TEST_FILE, [*good[:2], encoded, good[3]], [0, 1, 2, 3])


@pytest.mark.parametrize("encoded", [b"not an image", png(pixels(1)[0])[:-400], b""])
def test_an_image_that_cannot_be_decoded(tmp_path, encoded):
    file = with_third(tmp_path, encoded)
    with pytest.raises(DfkdError, match=rf"^{file} row 2 cannot be decoded as an image \(.*\): repair or replace it$"):
        load(tmp_path)
    assert not (tmp_path / "cache").exists()


def test_an_image_of_another_size(tmp_path):
    file = with_third(tmp_path, png(np.zeros((30, 28, 3), np.uint8)))
    refused(f"{file} row 2 is 28x30 but cifar10's images are 32x32: all images must have one size", tmp_path)


def test_an_image_of_16_bits(tmp_path):
    file = with_third(tmp_path, png(np.full((32, 32), 40_000, np.uint16)))
    refused(f"{file} row 2 has more than 8 bits a channel (mode I;16): convert it to 8 bits", tmp_path)


@pytest.mark.parametrize("label", [-1, 10])
def test_a_label_out_of_range(tmp_path, label):
    file = write(tmp_path / "cifar10" / TEST_FILE, [png(one) for one in pixels(4)], [0, 9, 2, label])
    refused(f"{file} row 3 has the label {label}, outside 0..9: fix the labels, or put the right file there", tmp_path)
