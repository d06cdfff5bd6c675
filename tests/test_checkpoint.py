from __future__ import annotations

import random
import re
import signal

import pytest
import torch
from e2e_kit import (
    bench,
    listening,
    own_cache,  # noqa: F401
    program,
    specs,
    teachers_folder,
)
from faulty_stages import faulty

from dfkd_bench import DfkdError
from dfkd_bench.runner import run_spec


@pytest.fixture(autouse=True)
def checkpoints_cost_nothing(monkeypatch):
    """With `checkpoint_seconds=0` there is one after every segment, however long writing it takes."""
    monkeypatch.setattr("dfkd_bench.checkpoint._SHARE", 0)


class Interrupts:
    """Breaks a run off after so many progress events."""

    def __init__(self, after: int) -> None:
        self.left = after

    def __call__(self, event) -> None:
        if event.kind == "progress":
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("cmi", ("schedule.rounds_per_epoch=2", "schedule.epochs=3", "schedule.bank_capacity=30")),
        ("deepinversion", ("schedule.rounds_per_epoch=1",)),
        ("dda", ("schedule.rounds_per_epoch=1", "distiller.self_loss=rotation")),
        ("dda", ("schedule.warmup_rounds=3",)),
        ("noise", ("augmenter.variants=2", "schedule.epochs=6")),
    ],
)
def test_a_run_that_is_broken_off_again_and_again_ends_in_the_same_record(tmp_path, method, overrides):
    swaps = {"augmenter": "classic"} if method == "noise" else None
    whole, pieces = bench(tmp_path / "whole"), bench(tmp_path / "pieces")
    (spec,) = specs(whole, method, *overrides, swaps=swaps)
    in_pieces_as_whole(spec, whole, pieces)


def test_a_stage_that_draws_from_torchs_own_generator_may_be_broken_off_too(tmp_path):
    whole, spec = faulty(tmp_path / "whole", "synthesizer.fault=torch's own generator", "schedule.epochs=6")
    pieces, _ = faulty(tmp_path / "pieces")
    in_pieces_as_whole(spec, whole, pieces)


def in_pieces_as_whole(spec, whole, pieces):
    expected = whole.run(spec)
    assert expected.status == "finished"
    rng, breaks = random.Random(spec.method), 0
    for _ in range(100):
        try:
            with listening(pieces.registry, Interrupts(rng.randint(1, 6))):
                record = run_spec(spec, pieces.results, pieces.store, checkpoint_seconds=0)
            break
        except KeyboardInterrupt:
            breaks += 1
            assert pieces.results.read(spec.hash) is None
    assert breaks >= 2
    assert record.without_times() == expected.without_times()
    folders = [workbench.results.folder(spec.hash) for workbench in (whole, pieces)]
    assert (folders[0] / "images.png").read_bytes() == (folders[1] / "images.png").read_bytes()
    assert {path.name for path in folders[1].iterdir()} == {"record.json", "images.png"}


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from dfkd_bench import RunSpec, checkpoint, hookimpl
from dfkd_bench.api import Workbench
from dfkd_bench.runner import run_spec
from dfkd_bench.seeds import global_stream, stream_seed
from dfkd_bench.weights import weights_hash

class Kill:
    @hookimpl
    def dfkd_run_event(self, event):
        if event.kind == "epoch" and event.data["epoch"] == 2:
            os.kill(os.getpid(), signal.SIGKILL)

checkpoint._SHARE = 0
torch.set_num_threads(int(sys.argv[4]))
bench = Workbench.make(results=sys.argv[1], teachers=sys.argv[2], device="cpu", precision="fp32")
bench.registry.listen(Kill())
run_spec(RunSpec.model_validate_json(sys.argv[3]), bench.results, bench.store, checkpoint_seconds=0)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill")
def test_a_killed_process_leaves_a_run_that_goes_on_to_the_same_record(tmp_path):
    whole, killed = bench(tmp_path / "whole"), bench(tmp_path / "killed")
    (spec,) = specs(whole, "cmi", "schedule.rounds_per_epoch=1", "schedule.epochs=3")
    arguments = (killed.results.path, teachers_folder(), spec.model_dump_json(), str(torch.get_num_threads()))
    done = program(*arguments, code=KILLED)
    assert done.code == -signal.SIGKILL, done
    assert (killed.results.folder(spec.hash) / "checkpoint.pt").exists()
    assert killed.results.read(spec.hash) is None
    heard = []
    with listening(killed.registry, heard.append):
        record = killed.run(spec)
    assert [event.data["epoch"] for event in heard if event.kind == "epoch"] == [2, 3]  # the first is not done again
    assert record.without_times() == whole.run(spec).without_times()


@pytest.fixture
def broken_off(tmp_path):
    """A run with a checkpoint: the workbench, the spec, the file."""
    workbench = bench(tmp_path)
    (spec,) = specs(workbench, "noise", "schedule.epochs=3")
    with pytest.raises(KeyboardInterrupt), listening(workbench.registry, Interrupts(4)):
        run_spec(spec, workbench.results, workbench.store, checkpoint_seconds=0)
    return workbench, spec, workbench.results.folder(spec.hash) / "checkpoint.pt"


@pytest.mark.parametrize("damage", [lambda data: b"", lambda data: data[:-200], lambda data: b"noise" * 500])
def test_a_damaged_checkpoint_is_one_sentence_and_stays(broken_off, damage):
    workbench, spec, file = broken_off
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(DfkdError, match=r"^the checkpoint .*checkpoint.pt is damaged: remove it, and the run starts"):
        workbench.run(spec)
    assert file.exists()
    assert workbench.results.read(spec.hash) is None
    file.unlink()
    assert workbench.run(spec).status == "finished"


@pytest.mark.parametrize("name", ["run", "torch", "dfkd-bench"])
def test_a_checkpoint_of_another_spec_or_version_is_refused(broken_off, name):
    workbench, spec, file = broken_off
    content = torch.load(file, weights_only=True)
    now, content["identity"][name] = content["identity"][name], "another"
    torch.save(content, file)
    with pytest.raises(
        DfkdError, match=rf"was written with {name} another, now it is {re.escape(now)}: go on with that version"
    ):
        workbench.run(spec)
    assert file.exists()


def test_a_checkpoint_made_with_a_plugin_that_is_gone_is_refused(broken_off):
    workbench, spec, file = broken_off
    content = torch.load(file, weights_only=True)
    content["identity"]["a-plugin"] = "1.0"
    torch.save(content, file)
    with pytest.raises(DfkdError, match=r"was written with a-plugin 1.0, now it is None"):
        workbench.run(spec)


def test_checkpoints_are_written_no_more_often_than_asked(tmp_path):
    workbench, seen = bench(tmp_path), []
    (spec,) = specs(workbench, "noise")
    file = workbench.results.folder(spec.hash) / "checkpoint.pt"
    with listening(workbench.registry, lambda _: seen.append(file.exists())):
        run_spec(spec, workbench.results, workbench.store, checkpoint_seconds=3600)
    assert not any(seen)
