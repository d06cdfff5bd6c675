from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from support.e2e_kit import program

from dfkd_bench import DfkdError
from dfkd_bench.files import cache_folder, replacing, writable_folder


def test_a_file_is_replaced_when_the_block_ends(tmp_path):
    path = tmp_path / "file.json"
    for text in ("first", "second"):
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
            assert temporary.parent == tmp_path
            assert path.exists() is (text == "second")
        assert path.read_text(encoding="utf-8") == text
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]


def test_a_file_is_readable_for_whom_the_umask_allows(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file") as temporary:
            temporary.write_text("x", encoding="utf-8")
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


@pytest.mark.parametrize("error", [ValueError("on purpose"), KeyboardInterrupt()])
def test_the_old_file_stays_when_the_block_raises(tmp_path, error):
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(type(error)), replacing(path) as temporary:
        temporary.write_text("half of the ne", encoding="utf-8")
        raise error
    assert path.read_text(encoding="utf-8") == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_a_full_disk_in_the_block_is_one_sentence_and_harms_nothing(tmp_path):
    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    with pytest.raises(DfkdError, match=r"^cannot write .*file \(No space left on device\); what was there before is"):
        with replacing(path) as temporary:
            temporary.write_text("half", encoding="utf-8")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert path.read_text(encoding="utf-8") == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("what", ["fsync", "replace"])
def test_a_disk_that_is_full_only_at_the_end_is_one_sentence_and_harms_nothing(tmp_path, monkeypatch, what):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    path = tmp_path / "file"
    path.write_text("old", encoding="utf-8")
    monkeypatch.setattr(*((os, "fsync") if what == "fsync" else (Path, "replace")), full)
    with pytest.raises(DfkdError, match=r"No space left on device"), replacing(path) as temporary:
        temporary.write_text("new", encoding="utf-8")
    assert path.read_text(encoding="utf-8") == "old"
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


WRITES = """
import resource, sys, torch
from pathlib import Path
from support.e2e_kit import make_spec
from dfkd_bench.resume.checkpoint import Checkpoint
from dfkd_bench.errors import DfkdError
from dfkd_bench.files import replacing
from dfkd_bench.teachers.weights import save_weights

class Big:
    def state_dict(self):
        return {"w": torch.zeros(1_000_000)}

def save(path):
    with replacing(path) as temporary:
        save_weights(Big().state_dict(), temporary)

weights, run = Path(sys.argv[1]), Path(sys.argv[2])
checkpoint = Checkpoint(run, {"run": make_spec().hash}, seconds=0)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # as good as a full disk
for write in (lambda: save(weights), lambda: checkpoint.save_if_due(Big())):
    try:
        write()
    except DfkdError as error:
        print(error)
    except Exception as error:
        print("not a sentence:", repr(error))
"""


def test_weights_and_a_checkpoint_for_which_there_is_no_room_are_one_sentence_each_and_harm_nothing(tmp_path):
    paths = tmp_path / "weights", tmp_path / "checkpoint.pt"
    for path in paths:
        path.write_text("old", encoding="utf-8")
    done = program(*paths, code=WRITES, path=Path(__file__).parent)
    assert done.code == 0, done
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}
    for path, said in zip(paths, done.out.splitlines(), strict=True):
        assert path.read_text(encoding="utf-8") == "old"
        assert said.startswith(f"cannot write {path} ("), said


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "a-file").write_text("", encoding="utf-8")
    below = tmp_path / "a-file" / "folder"
    with pytest.raises(DfkdError, match=r"^the results folder .*a-file/folder cannot be written \(.+\): name another"):
        writable_folder(below, "results")
    with pytest.raises(DfkdError, match=r"^cannot write into .*a-file/folder \(.+\): choose another folder"):
        with replacing(below / "file"):
            pytest.fail("the block must not be entered")
    assert [file.name for file in tmp_path.iterdir()] == ["a-file"]


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
def test_a_folder_that_takes_no_file_is_one_sentence():
    with pytest.raises(DfkdError, match=r"^the results folder /proc cannot be written"):
        writable_folder(Path("/proc"), "results")


def test_a_writable_folder_is_made_with_its_parents_and_left_empty(tmp_path):
    made = writable_folder(tmp_path / "a" / "b", "results")
    assert made == tmp_path / "a" / "b"
    assert list(made.iterdir()) == []
    assert writable_folder(made, "results") == made


def test_the_cache_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder("teachers", "x") == tmp_path / "dfkd-bench" / "teachers" / "x"
    assert list(tmp_path.iterdir()) == []
