"""Tensors in files that others may have written: read whole and finite, or refused in a sentence; caches made anew."""

from __future__ import annotations

import os

import pytest
import torch
from safetensors.torch import save_file

from dfkd_bench.datasets.split import Split, keep, recall
from dfkd_bench.errors import DfkdError
from dfkd_bench.foreign import read_tensors
from dfkd_bench.stages.ledger import PhaseCost
from dfkd_dda import variant_cache

ONES = torch.ones(2, 3)


def test_tensors_come_with_their_texts_and_no_others(tmp_path):
    path = tmp_path / "t.safetensors"
    save_file({"one": ONES, "other": torch.full((2,), torch.nan)}, path, {"by": "us"})
    tensors, texts = read_tensors(path, ["one"])
    assert tensors.keys() == {"one"} and torch.equal(tensors["one"], ONES)
    assert texts == {"by": "us"}
    with pytest.raises(FileNotFoundError):
        read_tensors(tmp_path / "nothing", ["one"])


def make_odd(path, kind):
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "text":
        path.write_text("nonsense")
    elif kind == "not finite":
        save_file({"one": torch.tensor([1.0, torch.inf])}, path)
    elif kind == "another tensor":
        save_file({"two": ONES}, path)
    else:
        save_file({"one": ONES}, path)
        if kind == "cut":
            path.write_bytes(path.read_bytes()[:-4])


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("folder", "it is a folder, not a file"),
        ("pipe", "it is a pipe, not a file"),
        ("text", "is no safetensors file"),
        ("cut", "is no safetensors file"),
        ("not finite", "the tensor 'one' holds numbers that are not finite"),
        ("another tensor", "has no tensor 'one': give a file that has"),
        ("large", "has 96 bytes, and at most 95 are read"),
    ],
)
def test_an_odd_file_is_one_sentence_that_names_it(tmp_path, kind, sentence):
    path = tmp_path / "odd.safetensors"
    make_odd(path, kind)
    with pytest.raises(DfkdError, match=sentence) as refused:
        read_tensors(path, ["one"], path.stat().st_size - 1 if kind == "large" else 2**20)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("kind", ["folder", "pipe", "text", "cut", "another tensor"])
def test_a_cache_that_is_something_else_is_made_anew(tmp_path, kind):
    path = tmp_path / "cache.safetensors"
    make_odd(path, kind)
    assert recall(path) is None
    if kind != "folder":
        split = Split.of(torch.zeros((2, 3, 4, 4), dtype=torch.uint8), torch.arange(2))
        keep(split, path)
        assert recall(path).fingerprint == split.fingerprint
    path = tmp_path / "variants.safetensors"
    make_odd(path, kind)
    assert variant_cache._read(path) is None


def test_variants_without_a_cost_of_this_program_are_made_again(tmp_path):
    path = tmp_path / "v.safetensors"
    for texts in (None, {"cost": "{}x"}, {"cost": '{"seconds": "long"}'}):
        save_file({"images": ONES}, path, texts)
        assert variant_cache._read(path) is None
    save_file({"images": ONES}, path, {"cost": PhaseCost(seconds=2).model_dump_json()})
    assert variant_cache._read(path)[1].seconds == 2
