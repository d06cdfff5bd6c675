"""A split on the disk, opened and closed again."""

from __future__ import annotations

import gc

import pytest
import torch
from support.e2e_kit import own_cache  # noqa: F401

from dfkd_bench import DfkdError
from dfkd_bench.datasets.guard import evaluating, sealed
from dfkd_bench.datasets.split import Split, keep
from dfkd_bench.datasets.stored import StoredSplit
from dfkd_bench.errors import DataFreeViolationError
from dfkd_bench.files import cache_folder


def a_split(seed: int = 0) -> Split:
    images = torch.randint(0, 256, (7, 3, 5, 5), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return Split.of(images, torch.arange(7))


def same(stored: StoredSplit, split: Split) -> bool:
    with stored.opened() as (images, labels):
        return torch.equal(images, split.images) and torch.equal(labels, split.labels)


def test_it_is_what_was_stored_and_serves_the_next_process():
    split = a_split()
    stored = StoredSplit(split)
    assert (stored.fingerprint, len(stored)) == (split.fingerprint, 7)
    assert same(stored, split)
    written = stored.path.stat().st_mtime_ns
    assert stored.path.parent == cache_folder("datasets")
    assert same(StoredSplit(split), split)
    assert stored.path.stat().st_mtime_ns == written
    assert StoredSplit(a_split(1)).path != stored.path


def test_nothing_of_it_is_in_memory_outside_of_the_block():
    split = a_split()
    stored, shape = StoredSplit(split), split.images.shape
    del split
    with stored.opened() as (images, labels):
        assert images.shape == shape
    del images, labels
    assert not [thing for thing in gc.get_objects() if type(thing) is torch.Tensor and thing.shape == shape]


def test_writing_into_what_is_opened_changes_no_file():
    split = a_split()
    stored = StoredSplit(split)
    with stored.opened() as (images, labels):
        images.zero_()
        labels.zero_()
    assert same(stored, split)


def test_a_damaged_file_is_written_anew():
    split = a_split()
    path = StoredSplit(split).path
    content = path.read_bytes()
    path.write_bytes(content[:-1] + b"x")
    assert same(StoredSplit(split), split)


def test_a_file_that_is_changed_or_removed_in_mid_run_is_one_sentence():
    stored = StoredSplit(a_split())
    content = stored.path.read_bytes()
    stored.path.unlink()
    with pytest.raises(DfkdError, match=r"where the test split was kept \(No such file or directory\): start"):
        same(stored, a_split())
    stored.path.write_bytes(content[:-1] + b"x")
    with pytest.raises(DfkdError, match=r"was changed during the run: start the command again$"):
        same(stored, a_split())


def test_a_file_that_another_process_wrote_again_is_used_if_it_holds_the_same_split():
    split = a_split()
    stored = StoredSplit(split)
    before = stored.path.stat().st_ino
    keep(split, stored.path)
    assert stored.path.stat().st_ino != before
    assert same(stored, split)
    assert same(stored, split)
    keep(a_split(1), stored.path)
    with pytest.raises(DfkdError, match=r"was changed during the run"):
        same(stored, split)


def test_without_a_cache_it_is_a_file_without_a_name(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way of a folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    stored = StoredSplit(a_split())
    assert same(stored, a_split())
    assert same(stored, a_split())  # and again

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    with pytest.raises(DfkdError, match=r"^the decoded test split fits neither into .* nor into .* \(No space left"):
        StoredSplit(a_split())


def test_the_seal_closes_it_but_for_an_evaluation():
    stored, split = StoredSplit(a_split()), a_split()
    with sealed("method 'm'"):
        with pytest.raises(DataFreeViolationError, match=r"^method 'm' tried to open a dataset"):
            same(stored, split)
        with evaluating():
            assert same(stored, split)
        with pytest.raises(DataFreeViolationError):
            same(stored, split)
