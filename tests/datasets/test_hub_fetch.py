import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pyarrow.parquet as pq
import pytest
import torch
from support.hub_kit import ADVICE, cached, cifar, load, refused, small

from dfkd_bench.datasets import hub
from dfkd_bench.datasets.cards import CIFAR10, TINY_IMAGENET, TINY_IMAGENET_WNIDS
from dfkd_bench.datasets.split import keep, recall
from dfkd_bench.errors import DfkdError

__all__ = ["small"]

# --- the cache


def test_a_split_is_decoded_once(tmp_path, monkeypatch):
    cifar(tmp_path / "cifar10")
    first = load(tmp_path)
    (file,) = cached(tmp_path)
    assert re.fullmatch(r"cifar10-test-[0-9a-f]{16}\.safetensors", file.name)
    monkeypatch.setattr(hub, "_decode", None)  # decoding again would fail
    second = load(tmp_path)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert first.fingerprint == second.fingerprint


def test_other_files_are_not_taken_from_the_cache(tmp_path):
    cifar(tmp_path / "cifar10")
    first = load(tmp_path)
    cifar(tmp_path / "cifar10", seed=1)
    assert load(tmp_path).fingerprint != first.fingerprint
    assert len(cached(tmp_path)) == 2


def flip_last_byte(content):
    return content[:-1] + bytes([content[-1] ^ 1])


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-9], flip_last_byte])
def test_a_damaged_cache_file_is_decoded_again(tmp_path, damage):
    cifar(tmp_path / "cifar10")
    first = load(tmp_path)
    (file,) = cached(tmp_path)
    sound = file.read_bytes()
    file.write_bytes(damage(sound))
    assert load(tmp_path).fingerprint == first.fingerprint
    assert cached(tmp_path) == [file]
    assert file.read_bytes() == sound


def test_a_damaged_cache_file_is_deleted(tmp_path):
    file = tmp_path / "some.safetensors"
    file.write_bytes(b"damaged")
    assert recall(file) is None
    assert not file.exists()
    assert recall(file) is None


def test_an_unwritable_cache_changes_no_result(tmp_path, monkeypatch):
    cifar(tmp_path / "cifar10")
    first = load(tmp_path)
    (tmp_path / "file").write_text("in the way of a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    second = load(tmp_path)
    assert torch.equal(first.images, second.images)
    assert first.fingerprint == second.fingerprint


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    cifar(tmp_path / "cifar10")

    def full(tensors, path, metadata):
        Path(path).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dfkd_bench.datasets.split.save_file", full)
    keep(load(tmp_path), tmp_path / "kept" / "x.safetensors")
    assert list((tmp_path / "kept").iterdir()) == []
    assert cached(tmp_path) == []


# --- the hub


def test_fetches_only_the_split_at_the_pinned_revision(tmp_path, monkeypatch):
    cifar(tmp_path / "snapshot" / "plain_text")
    asked = []

    def fetch(repo, **options):
        asked.append((repo, options))
        return str(tmp_path / "snapshot")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert len(hub.load_cifar10("test")) == 4
    options = {
        "repo_type": "dataset",
        "revision": "0b2714987fa478483af9968de7c934580d0bb9a2",
        "allow_patterns": ["*/test-*.parquet"],
    }
    assert asked == [("uoft-cs/cifar10", options)]


def test_tiny_imagenets_test_split_is_fetched_as_valid(monkeypatch, tmp_path):
    asked = []

    def fetch(repo, **options):
        asked.append((repo, options["allow_patterns"]))
        raise OSError("no route")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    with pytest.raises(DfkdError, match=r"put train-.* and valid-.* of the hub's dataset zh-plus/tiny-imagenet"):
        hub.load_tiny_imagenet("test")
    assert asked == [("zh-plus/tiny-imagenet", ["*/valid-*.parquet"])]


def test_every_revision_is_a_commit():
    assert all(re.fullmatch("[0-9a-f]{40}", spec.revision) for spec in hub.SPECS.values())


def test_a_network_failure_names_the_data_root(monkeypatch):
    def fetch(repo, **options):
        raise ConnectionError("no route\nto host.")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    refused(
        "the train images of cifar10 could not be fetched from the Hugging Face hub "
        f"(ConnectionError: no route to host): without a network, {ADVICE}",
        None,
        "train",
    )


def test_a_partly_fetched_training_split_is_refused(tmp_path, monkeypatch):
    cifar(tmp_path / "plain_text", "train-00000-of-00002.parquet")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(tmp_path))
    missing = "train-00001-of-00002.parquet"
    refused(f"{missing} is missing from {tmp_path / 'plain_text'}: {ADVICE}", None, "train")


OFFLINE = """
from dataclasses import replace
from dfkd_bench.datasets import hub
from dfkd_bench.errors import DfkdError
hub.SPECS["cifar10"] = replace(hub.SPECS["cifar10"], counts={"train": 8, "test": 4})
for load in (hub.load_cifar10, hub.load_cifar100):
    try:
        print(len(load("test")))
    except DfkdError as error:
        print(error)
"""


def test_offline_takes_what_was_fetched_before_and_refuses_the_rest(tmp_path):
    """The real huggingface_hub, told to stay offline; its cache holds a snapshot of CIFAR-10 and none of CIFAR-100."""
    spec = hub.SPECS["cifar10"]
    cifar(tmp_path / "hub" / "datasets--uoft-cs--cifar10" / "snapshots" / spec.revision / "plain_text")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-c", OFFLINE], capture_output=True, text=True, check=True, env=environment)
    fetched, refusal = done.stdout.splitlines()
    assert fetched == "4"
    assert refusal.startswith("the test images of cifar100 could not be fetched from the Hugging Face hub (")
    assert refusal.endswith("into DIR/cifar100 and give --data-root DIR")


# --- the real images

DATA = os.environ.get("DFKD_BENCH_DATA")


def real(name):
    folder = Path(DATA or "") / name
    absent = not DATA or not folder.is_dir()
    return pytest.mark.skipif(absent, reason=f"DFKD_BENCH_DATA names no folder that holds {name}")


@pytest.fixture
def data(monkeypatch, small, tmp_path):
    monkeypatch.undo()  # the real counts
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield Path(DATA)
    shutil.rmtree(tmp_path / "cache", ignore_errors=True)  # hundreds of megabytes


def channel_means(split):
    return split.images.float().mean(dim=(0, 2, 3)) / 255


@real("cifar10")
def test_the_real_cifar10(data):
    train, test = hub.load_cifar10("train", data), hub.load_cifar10("test", data)
    assert train.images.shape == (50_000, 3, 32, 32)
    assert train.labels.bincount().tolist() == [5000] * 10
    assert test.labels.bincount().tolist() == [1000] * 10
    assert train.note is None
    assert torch.allclose(channel_means(train), torch.tensor(CIFAR10.mean), atol=1e-4)
    # The card's deviation is the mean of each image's own.
    deviation = (train.images.float() / 255).flatten(2).std(dim=2).mean(dim=0)
    assert torch.allclose(deviation, torch.tensor(CIFAR10.std), atol=1e-4)


@real("tiny_imagenet")
def test_the_real_tiny_imagenet(data):
    train, test = hub.load_tiny_imagenet("train", data), hub.load_tiny_imagenet("test", data)
    assert test.images.shape == (10_000, 3, 64, 64)
    assert test.labels.bincount().tolist() == [50] * 200
    assert (train.note is None) == (len(train) == 100_000)
    assert train.labels.unique().tolist() == list(range(200))
    assert torch.allclose(channel_means(test), torch.tensor([0.4824, 0.4495, 0.3981]), atol=1e-3)
    assert TINY_IMAGENET.num_classes == 200


@real("tiny_imagenet")
def test_tiny_imagenets_label_order_is_that_of_its_files(data):
    file = next((data / "tiny_imagenet").rglob("valid-*.parquet"))
    stored = pq.read_schema(file).metadata[b"huggingface"].decode()
    assert tuple(re.findall(r"n\d{8}", stored)) == TINY_IMAGENET_WNIDS
