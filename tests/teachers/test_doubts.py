"""Weights and teachers that can only be a mistake do not pass in silence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.e2e_kit import RECIPE, cli, own_cache, teacher_file
from support.folder_kit import picture, save

from dfkd_bench import DfkdError
from dfkd_bench.datasets.cards import DIGITS
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.models.build import build_model
from dfkd_bench.teachers.store import near_chance
from dfkd_bench.teachers.weights import find_weights, fit, read_weights
from dfkd_bench.workbench import Workbench

__all__ = ["own_cache"]


@pytest.fixture
def state():
    return build_model("resnet8", DIGITS, Registry()).state_dict()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda weights: weights * torch.nan, r"^f has '.*' with values that are not finite: its training diverged"),
        (lambda weights: weights / 0, r"with values that are not finite"),
        (lambda weights: weights.long(), r"^f has '.*' as int64, not as float32: save the weights as they were"),
        (lambda weights: weights > 0, r"as bool, not as float32"),
        (lambda weights: weights + 1j, r"as complex64, not as float32"),
    ],
)
def test_weights_that_are_no_finite_numbers_are_refused(state, change, sentence):
    name = next(name for name in state if name.endswith("weight"))
    with pytest.raises(DfkdError, match=sentence):
        fit(build_model("resnet8", DIGITS, Registry()), {**state, name: change(state[name])}, "resnet8", "f")


def test_weights_of_half_the_precision_are_taken(state):
    half = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    fit(build_model("resnet8", DIGITS, Registry()), half, "resnet8", "f")


@pytest.mark.parametrize(
    ("mean", "std"), [([0.5], [0]), ([0.5], [-1]), ([0.5], []), ([0.5], ["x"]), ([float("nan")], [1]), ([0.5], [1e999])]
)
def test_a_normalization_that_divides_by_nothing_is_refused(tmp_path, mean, std):
    (tmp_path / "timm").mkdir()
    shutil.copy(teacher_file(), tmp_path / "timm" / "model.safetensors")
    content = json.dumps({"pretrained_cfg": {"mean": mean, "std": std}})
    (tmp_path / "timm" / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(
        DfkdError, match=r"config\.json is no valid timm configuration \(pretrained_cfg.*: write it again, or remove it"
    ):
        find_weights(tmp_path / "timm")


class Strange:
    """Only a pickle that runs code can bring it back."""


@pytest.mark.parametrize("content", ["an object", "a protocol of pickle's own"])
def test_the_refusal_of_a_pickle_never_advises_to_load_it_all_the_same(tmp_path, content):
    path = tmp_path / "weights.pth"
    torch.save({"x": Strange()}, path)
    if content != "an object":
        path.write_bytes(b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x02os\x94\x8c\x06system\x94\x93\x94.")
    with pytest.raises(DfkdError) as caught:
        read_weights(path)
    assert str(caught.value).startswith(str(path))
    assert "could run code" in str(caught.value) or "cannot be read as weights" in str(caught.value)
    assert "weights_only" not in str(caught.value)
    assert "options" not in str(caught.value)


@pytest.mark.parametrize(
    ("classes", "near", "fair"), [(10, 9.75, 15.1), (10, 14.9, 30), (100, 1.4, 1.6), (2, 54, 56), (2, 50, 75)]
)
def test_what_is_near_chance(classes, near, fair):
    assert near_chance(near, classes)
    assert not near_chance(fair, classes)


def train(tmp_path: Path, *more: str):
    places = ("--teachers", tmp_path / "teachers", "--device", "cpu", "--precision", "fp32")
    return cli("teacher", "train", "--model", "resnet8", *more, *places)


def test_a_teacher_that_learned_nothing_is_told(tmp_path):
    done = train(tmp_path, "--epochs", "1", "--lr", "1e-12")
    assert done.code == 0
    assert "of digits's test split, near chance (10.00 %): check its weights" in done.err


def test_a_teacher_that_diverged_is_refused_and_not_kept(tmp_path, monkeypatch):
    class Diverged:
        def __init__(self, network, *_):
            next(network.parameters()).data.fill_(torch.nan)

        def to_the_end(self, checkpoint):
            """Nothing more."""

    monkeypatch.setattr("dfkd_bench.teachers.store.Training", Diverged)
    done = train(tmp_path, "--epochs", "1")
    assert done.code == 2
    assert done.err.splitlines()[-1].startswith("dfkd-bench: the teacher resnet8 diverged on digits: its weights are ")
    assert not list((tmp_path / "teachers").glob("*/card.json"))


def test_a_test_split_that_is_trained_on_is_refused(tmp_path):
    for split in ("train", "test"):
        for number, name in enumerate(("ant", "bee")):
            save(tmp_path / "own" / split / name / "0.png", picture(number))
    store = Workbench.make(teachers=tmp_path / "teachers", device="cpu", precision="fp32", registry=Registry()).store
    name = f"folder:{(tmp_path / 'own').resolve()}"
    with pytest.raises(DfkdError, match=r"^every test image of folder:.* is a training image, too: give it a test"):
        store.train("resnet8", name, RECIPE)
