from __future__ import annotations

import random
import re
import signal

import pytest
import torch
from support.e2e_kit import (
    Interrupts,
    bench,
    listening,
    own_cache,  # noqa: F401
    program,
    specs,
    teachers_folder,
)
from support.faulty_stages import FaultySynthesizer, faulty, gray

from dfkd_bench import DfkdError
from dfkd_bench.results import progress_file, status
from dfkd_bench.runs.runner import run_spec


@pytest.fixture(autouse=True)
def checkpoints_cost_nothing(monkeypatch):
    """With `checkpoint_seconds=0` there is one after every segment, however long writing it takes."""
    monkeypatch.setattr("dfkd_bench.resume.checkpoint._SHARE", 0)


@pytest.mark.parametrize(
    ("method", "overrides"),
    [
        ("cmi", ("schedule.rounds_per_epoch=2", "schedule.epochs=3", "schedule.bank_capacity=30")),
        ("deepinversion", ("schedule.rounds_per_epoch=1",)),
        ("dda", ("schedule.rounds_per_epoch=1", "distiller.self_loss=rotation")),
        ("dda", ("schedule.warmup_rounds=3",)),
        ("noise", ("augmenter.variants=2", "schedule.epochs=6")),
        (
            "noise",
            ("schedule.epochs=4", "schedule.steps_per_epoch=1", "schedule.optimizer=adamw", "schedule.growing=true"),
        ),
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
    expected = run_spec(spec, whole.results, whole.store)
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
    assert {path.name for path in folders[1].iterdir()} == {"record.json", "curve.csv", "images.png"}


KILLED = """
import os, signal, sys, torch
from pathlib import Path
from dfkd_bench import RunSpec, hookimpl
from dfkd_bench.resume import checkpoint
from dfkd_bench.workbench import Workbench
from dfkd_bench.runs.runner import run_spec
from dfkd_bench.stages.seeds import global_stream, stream_seed
from dfkd_bench.teachers.weights import weights_hash

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
        record = run_spec(spec, killed.results, killed.store)
    assert [event.data["epoch"] for event in heard if event.kind == "epoch"] == [2, 3]  # the first is not done again
    assert record.without_times() == run_spec(spec, whole.results, whole.store).without_times()


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
        run_spec(spec, workbench.results, workbench.store)
    assert file.exists()
    assert workbench.results.read(spec.hash) is None
    file.unlink()
    assert run_spec(spec, workbench.results, workbench.store).status == "finished"


@pytest.mark.parametrize("name", ["run", "device", "precision", "torch", "numpy", "the code of dfkd_baselines"])
def test_a_checkpoint_of_another_spec_or_version_is_refused(broken_off, name):
    workbench, spec, file = broken_off
    content = torch.load(file, weights_only=True)
    now, content["identity"][name] = content["identity"][name], "another"
    torch.save(content, file)
    with pytest.raises(
        DfkdError, match=rf"was written with {name} another, now it is {re.escape(now)}: go back to what it was"
    ):
        run_spec(spec, workbench.results, workbench.store)
    assert file.exists()


def test_a_checkpoint_made_with_a_library_that_is_gone_is_refused(broken_off):
    workbench, spec, file = broken_off
    content = torch.load(file, weights_only=True)
    content["identity"]["a-library"] = "1.0"
    torch.save(content, file)
    with pytest.raises(DfkdError, match=r"was written with a-library 1.0, now it is None"):
        run_spec(spec, workbench.results, workbench.store)


def test_checkpoints_are_written_no_more_often_than_asked(tmp_path):
    workbench, seen = bench(tmp_path), []
    (spec,) = specs(workbench, "noise")
    file = workbench.results.folder(spec.hash) / "checkpoint.pt"
    with listening(workbench.registry, lambda _: seen.append(file.exists())):
        run_spec(spec, workbench.results, workbench.store, checkpoint_seconds=3600)
    assert not any(seen)


def test_what_cannot_be_gone_on_from_is_one_sentence_and_stays(broken_off):
    workbench, spec, file = broken_off
    content = torch.load(file, weights_only=True)
    content["state"]["streams"]["order"] = torch.zeros(3, dtype=torch.uint8)
    torch.save(content, file)
    with pytest.raises(
        DfkdError, match=r"^the run cannot resume from the checkpoint .* \(.*\): remove the file, and the"
    ):
        run_spec(spec, workbench.results, workbench.store)
    assert file.exists()


def test_what_cannot_be_read_back_is_told_when_it_is_written(tmp_path):
    workbench, spec = faulty(tmp_path, "synthesizer.fault=state")
    record = run_spec(spec, workbench.results, workbench.store, checkpoint_seconds=0)
    assert record.reason.startswith("TypeError: a stage's state_dict holds numpy._core.multiarray.scalar, numpy.dtype:")


def epochs_heard(workbench, spec, stop_after=None, **how):
    """The epochs that a start of a run goes through."""
    heard = []

    def hear(event):
        if event.kind == "epoch":
            heard.append(event.data["epoch"])
        if event.kind == "phase" and heard and heard[-1] == stop_after:
            raise KeyboardInterrupt

    with listening(workbench.registry, hear):
        try:
            run_spec(spec, workbench.results, workbench.store, checkpoint_seconds=0, **how)
        except KeyboardInterrupt:
            assert stop_after
    return heard


def test_a_retry_that_is_broken_off_goes_on_too(tmp_path, monkeypatch):
    workbench, spec = faulty(tmp_path, "synthesizer.fault=raises", "schedule.epochs=4")
    assert run_spec(spec, workbench.results, workbench.store).status == "failed"
    monkeypatch.setattr(FaultySynthesizer, "synthesize", lambda self, round: gray(self.context))
    assert epochs_heard(workbench, spec, stop_after=2, retry=True) == [1, 2]
    assert epochs_heard(workbench, spec, retry=True) == [3, 4]
    assert workbench.results.read(spec.hash).status == "finished"


def no_memory(*_):
    raise MemoryError


def test_a_start_that_ends_before_it_has_read_its_checkpoint_loses_nothing(tmp_path, monkeypatch):
    workbench, spec = faulty(tmp_path, "schedule.epochs=4")
    epochs_heard(workbench, spec, stop_after=2)
    monkeypatch.setattr("dfkd_bench.runs.loop.teacher_answers", no_memory)
    for retry in (False, True):
        record = run_spec(spec, workbench.results, workbench.store, retry=retry)
        assert (record.status, record.last_good_epoch, len(record.curve())) == ("out-of-memory", 2, 2)
    monkeypatch.undo()
    assert epochs_heard(workbench, spec, retry=True) == [3, 4]


def test_what_the_user_can_mend_leaves_no_run_that_seems_begun(tmp_path, monkeypatch):
    workbench, spec = faulty(tmp_path)

    def mend_me(*_):
        raise DfkdError("mend me")

    monkeypatch.setattr("dfkd_bench.teachers.store.TeacherStore.obtain", mend_me)
    with pytest.raises(DfkdError, match="mend me"):
        run_spec(spec, workbench.results, workbench.store)
    assert progress_file.read(workbench.results, spec.hash) is None
    assert [state.state for state in status.run_states(workbench.results, [spec])] == ["waiting"]


def test_the_augmentation_of_a_bank_is_broken_off_between_batches(tmp_path):
    """Also in a bank that is full, where variants take the places of what others are yet to be made from."""
    overrides = ("schedule.warmup_rounds=3", "schedule.bank_capacity=24", "schedule.rounds_per_epoch=0")
    whole, pieces = bench(tmp_path / "whole"), bench(tmp_path / "pieces")
    (spec,) = specs(whole, "noise", *overrides, "augmenter.variants=3", swaps={"augmenter": "classic"})
    batches = []

    def stop(event):
        if event.kind == "phase" and event.data["phase"] == "augmenter":
            batches.append(progress_file.read(pieces.results, spec.hash))
            if len(batches) in (2, 4):
                raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), listening(pieces.registry, stop):
            run_spec(spec, pieces.results, pieces.store, checkpoint_seconds=0)
    with listening(pieces.registry, stop):
        record = run_spec(spec, pieces.results, pieces.store, checkpoint_seconds=0)
    assert len(batches) == 5  # three of them, and two that were broken off before they began
    assert [round(at.part, 3) for at in batches[2:]] == [0.333, 0.333, 0.667]
    assert record.bank.augmented == 72
    assert record.without_times() == run_spec(spec, whole.results, whole.store).without_times()
