from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from dfkd_bench import DfkdError
from dfkd_bench.datasets.cards import CIFAR10
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.models.build import build_model
from dfkd_bench.teachers.weights import fit, read_weights, save_weights, weights_hash


def network(width: int = 3, classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, classes))


STATE = network().state_dict()


@pytest.fixture
def files(tmp_path):
    """The same weights in every kind of file."""
    turned = {name: STATE[name] for name in reversed(STATE)}
    channels_last = {
        name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
        for name, tensor in STATE.items()
    }
    save_weights(channels_last, tmp_path / "a.safetensors")
    torch.save(turned, tmp_path / "bare.pth")
    torch.save(STATE, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    torch.save({"state_dict": STATE, "optimizer": {"lr": 0.1}, "epoch": 3, "arch": "x"}, tmp_path / "nested.pt")
    torch.save({f"module.{name}": tensor for name, tensor in STATE.items()}, tmp_path / "parallel.pth")
    return sorted(tmp_path.iterdir())


def test_the_hash_is_of_the_weights_and_not_of_their_file(files):
    assert len(files) == 5
    assert {weights_hash(read_weights(file)) for file in files} == {weights_hash(STATE)}
    for file in files:
        body = network()
        for parameter in body.parameters():
            nn.init.zeros_(parameter)
        fit(body, read_weights(file), "net", str(file))
        assert weights_hash(body.state_dict()) == weights_hash(STATE)


def test_the_hash_is_what_it_always_was():
    state = {"b": torch.tensor(3), "a": torch.arange(6, dtype=torch.float32).reshape(2, 3)}
    assert weights_hash(state) == "cc6df0ccced2796bb7920f49df77f60817628dda453b7129ce189ba16a39d0d2"


@pytest.mark.parametrize(
    "change",
    [
        lambda s: {**s, "3.bias": s["3.bias"] + 1e-6},
        lambda s: {**s, "3.bias": s["3.bias"].double()},
        lambda s: {**s, "3.bias": s["3.bias"].reshape(2, 2)},
        lambda s: {("3.bias2" if name == "3.bias" else name): tensor for name, tensor in s.items()},
        lambda s: {name: tensor for name, tensor in s.items() if name != "3.bias"},
        lambda s: {**s, "1.num_batches_tracked": torch.tensor(7)},
    ],
    ids=["a value", "a type", "a shape", "a name", "one less", "a counter"],
)
def test_every_difference_changes_the_hash(change):
    assert weights_hash(change(STATE)) != weights_hash(STATE)


class Bomb:
    """Its pickle makes a file where it is loaded."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("nested", [True, False])
def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path, new, nested):
    mark, file = tmp_path / "mark", tmp_path / "weights.pth"
    torch.save(
        {"state_dict": STATE, "extra": Bomb(mark)} if nested else Bomb(mark), file, _use_new_zipfile_serialization=new
    )
    sentence = r"weights.pth holds more than tensors and plain data, and loading it could run code: save its state_dict"
    with pytest.raises(DfkdError, match=sentence) as caught:
        read_weights(file)
    assert "\n" not in str(caught.value)
    assert not mark.exists()
    torch.load(file, weights_only=False)
    assert mark.exists()  # it would have run


DAMAGES = {
    "empty": lambda data: b"",
    "cut in half": lambda data: data[: len(data) // 2],
    "cut at its begin": lambda data: data[100:],
    "a web page": lambda data: b"<!DOCTYPE html><html><body>404</body></html>",
    "noise": lambda data: bytes(range(256)) * 8,
    "zeros": lambda data: bytes(1000),
    "words": lambda data: b"hello world",
}


@pytest.mark.parametrize("name", ["a.safetensors", "bare.pth", "old.pth"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_one_sentence_that_says_so(files, name, damage):
    file = files[0].parent / name
    file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.raises(DfkdError, match=r"cannot be read as weights \(.+\): it may be damaged or incomplete$") as e:
        read_weights(file)
    assert str(file) in str(e.value)
    assert "\n" not in str(e.value)


def test_any_cut_of_a_file_is_a_sentence(tmp_path, files):
    for name in ("bare.pth", "old.pth", "a.safetensors"):
        data = (files[0].parent / name).read_bytes()
        cut = tmp_path / f"cut-{name}"
        for length in range(0, len(data) - 1, max(1, len(data) // 40)):
            cut.write_bytes(data[:length])
            with pytest.raises(DfkdError):
                read_weights(cut)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(DfkdError, match=rf"^there is no weights file {tmp_path}/none.pth$"):
        read_weights(tmp_path / "none.pth")
    with pytest.raises(DfkdError, match=rf"^cannot read {tmp_path}: it is a folder, not a file$"):
        read_weights(tmp_path)


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, torch.zeros(3), {"state_dict": {"a": "b"}}, {"model": STATE}])
def test_a_file_of_something_else_is_one_sentence(tmp_path, content):
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(DfkdError, match=r"other.pth is neither a state_dict nor a checkpoint with one under"):
        read_weights(tmp_path / "other.pth")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda s: {name: t for name, t in s.items() if name not in ("1.weight", "3.bias")},
            r"^f is no net: it has no '1.weight' \[3\]$",
        ),
        (
            lambda s: {**s, "0.weight": torch.zeros(5, 1, 3, 3), "3.bias": torch.zeros(9)},
            r"^f does not fit net: '0.weight' is \[5, 1, 3, 3\] there, \[3, 1, 3, 3\] here$",
        ),
        (
            lambda s: {**s, "4.weight": torch.zeros(2), "5.weight": torch.zeros(2)},
            r"^f is no net: it has '4.weight' \[2\], which net has not$",
        ),
        (
            lambda s: network(classes=7).state_dict(),
            r"^f does not fit net: '3.weight' is \[7, 3\] there, \[4, 3\] here$",
        ),
    ],
    ids=["missing", "another shape", "too many", "another class count"],
)
def test_weights_of_another_network_are_refused_with_the_first_difference(change, sentence):
    body = network()
    with pytest.raises(DfkdError, match=sentence):
        fit(body, change(dict(STATE)), "net", "f")
    assert weights_hash(body.state_dict()) == weights_hash(STATE)


def test_old_checkpoints_may_lack_the_counter():
    body = network()
    fit(body, {name: t for name, t in STATE.items() if not name.endswith("num_batches_tracked")}, "net", "f")
    assert weights_hash(body.state_dict()) == weights_hash(STATE)


DATA = os.environ.get("DFKD_BENCH_DATA")


@pytest.mark.skipif(not DATA, reason="DFKD_BENCH_DATA names no folder with teachers/cifar10_wrn40_2.pth")
def test_a_published_teachers_weights_are_read_and_fit():
    file = Path(str(DATA)) / "teachers" / "cifar10_wrn40_2.pth"
    body = build_model("wrn40_2", CIFAR10, Registry())
    fit(body, read_weights(file), "wrn40_2", str(file))
    assert weights_hash(body.state_dict()).startswith("f03731aab66b26a0")
    with pytest.raises(DfkdError, match=r"^f (is no|does not fit) wrn40_1: "):
        fit(build_model("wrn40_1", CIFAR10, Registry()), read_weights(file), "wrn40_1", "f")
