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
    registry_with,
    specs,
    teachers_folder,
)
from PIL import Image
from pydantic import Field
from torch import nn

from dfkd_bench import Augmenter, DfkdError, Distiller, Filter, StageOptions, Synthesizer, SyntheticBatch
from dfkd_bench.datasets.cards import DIGITS
from dfkd_bench.models import build_model
from dfkd_bench.plugins import STAGE_KINDS, default_registry
from dfkd_bench.records import Record
from dfkd_bench.runner import run_spec
from dfkd_bench.seeds import global_stream, stream_seed
from dfkd_bench.weights import weights_hash

METHODS = sorted(default_registry().provided("method"))


@pytest.fixture(autouse=True)
def checkpoints_cost_nothing(monkeypatch):
    """With `checkpoint_seconds=0` there is one after every segment, however long writing it takes."""
    monkeypatch.setattr("dfkd_bench.checkpoint._SHARE", 0)


def grey(context, count=8) -> SyntheticBatch:
    images = torch.rand((count, *context.card.image_shape), generator=context.generator, device=context.device)
    return SyntheticBatch(images, torch.arange(count, device=context.device) % context.card.num_classes)


class FaultOptions(StageOptions):
    fault: str = Field("none", description="what goes wrong")


class FaultySynthesizer(Synthesizer[FaultOptions]):
    Options = FaultOptions

    def __init__(self, options, context):
        super().__init__(options, context)
        if options.fault == "making":
            raise RuntimeError("made on purpose")

    def synthesize(self, round):
        batch, fault, late = grey(self.context), self.options.fault, round.index == 1
        if fault == "raises" and late:
            raise RuntimeError("on\npurpose")
        if fault == "nan" and late:
            batch.images[3, 0, 2, 2] = torch.nan
        if fault == "range":
            batch.images[0] += 1
        if fault == "shape":
            return SyntheticBatch(batch.images[:, :, 1:], batch.targets)
        if fault == "targets":
            batch.targets[0] = 10
        if fault == "weights" and late:
            with torch.no_grad():
                next(self.context.teacher.parameters()).add_(1e-3)
        if fault == "statistics" and late:
            next(m for m in self.context.teacher.modules() if isinstance(m, nn.BatchNorm2d)).running_mean.add_(1e-3)
        if fault == "nothing":
            return batch.select(slice(0, 0))
        if fault == "torch's own generator":
            return SyntheticBatch(torch.rand_like(batch.images), batch.targets)
        return batch


class FaultyAugmenter(Augmenter[FaultOptions]):
    Options = FaultOptions

    def augment(self, batch):
        source = torch.arange(len(batch))
        if self.options.fault == "no source":
            return batch
        if self.options.fault == "a source too far":
            source += 1
        return SyntheticBatch(batch.images, batch.targets, source)


class FaultyFilter(Filter[FaultOptions]):
    Options = FaultOptions

    def keep(self, augmented, source):
        if self.options.fault == "numbers":
            return torch.ones(len(augmented))
        if self.options.fault == "too few":
            return torch.ones(len(augmented) - 1, dtype=torch.bool)
        return torch.arange(len(augmented)) % 4 == 0


class FaultyDistiller(Distiller[FaultOptions]):
    Options = FaultOptions

    def losses(self, student, teacher, batch):
        loss = student(batch.images).square().mean()
        if self.options.fault == "nan":
            return {"bad": loss * torch.nan, "fine": loss}
        if self.options.fault == "inf":
            return {"bad": loss * torch.inf, "fine": loss}
        if self.options.fault == "none at all":
            return {}
        return {"fine": loss}


SWAPS = {"synthesizer": "faulty", "augmenter": "faulty", "filter": "faulty", "distiller": "faulty"}


def faulty(tmp_path, *faults: str):
    registry = registry_with(
        synthesizer={"faulty": FaultySynthesizer},
        augmenter={"faulty": FaultyAugmenter},
        filter={"faulty": FaultyFilter},
        distiller={"faulty": FaultyDistiller},
    )
    workbench = bench(tmp_path / "results", registry)
    (spec,) = specs(workbench, "noise", *faults, swaps=SWAPS)
    return workbench, spec


def declared_prior(registry, spec, kind):
    stage, choice = registry.load(kind, getattr(spec, kind).name), getattr(spec, kind)
    return stage.prior_with(stage.Options.model_validate(choice.options))


def wanted_images(registry, spec):
    stage = registry.load("synthesizer", spec.synthesizer.name)
    return stage.images_wanted(stage.Options.model_validate(spec.synthesizer.options), DIGITS)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_to_a_whole_record_and_the_same_spec_gives_the_same_record(tmp_path, method):
    once, again = bench(tmp_path / "once"), bench(tmp_path / "again")
    (spec,) = specs(once, method)
    if wanted_images(once.registry, spec) not in (None, "digits"):
        pytest.skip("it wants the images of a dataset that is not bundled")
    record = once.run(spec)
    assert record.status == "finished", record.reason
    assert record.run == spec.hash
    assert [point.epoch for point in record.curve] == [1, 2]
    assert [point.steps for point in record.curve] == [3, 6]
    if spec.schedule.lr_schedule == "cosine" and not spec.schedule.lr_min:
        assert [point.lr for point in record.curve] == pytest.approx([spec.schedule.lr, spec.schedule.lr / 2])
    assert all(point.losses for point in record.curve)
    assert record.accuracy is not None
    assert record.accuracy.last == record.curve[-1].accuracy
    assert record.accuracy.oracle_best == max(point.accuracy for point in record.curve)
    assert record.curve[record.accuracy.oracle_epoch - 1].accuracy == record.accuracy.oracle_best
    registry = once.registry
    assert record.priors == {kind: declared_prior(registry, spec, kind) for kind in STAGE_KINDS}
    assert record.teacher.sha256 == once.store.obtain(spec.teacher, "resnet8", "digits").card.sha256
    _check_bank_and_cost(record, stream=registry.load("synthesizer", spec.synthesizer.name).stream)
    folder = once.results.folder(spec.hash)
    assert {path.name for path in folder.iterdir()} == {"record.json", "images.png"}
    with Image.open(folder / "images.png") as picture:
        picture.load()
        assert picture.width > 16 * 48
    assert again.run(spec).without_times() == record.without_times()
    assert (again.results.folder(spec.hash) / "images.png").read_bytes() == (folder / "images.png").read_bytes()


def _check_bank_and_cost(record: Record, *, stream: bool) -> None:
    schedule, bank, cost = record.spec.schedule, record.bank, record.cost
    rounds = schedule.warmup_rounds + schedule.epochs * schedule.rounds_per_epoch
    assert cost["synthesis"]["images"] == bank.synthesised
    assert cost["distillation"]["images"] == schedule.epochs * schedule.steps_per_epoch * schedule.batch_size == 48
    assert cost["distillation"]["forward"]["student"] >= 48
    assert cost["distillation"]["backward"]["student"] >= 48
    assert cost["evaluation"]["images"] == schedule.epochs * 359
    assert cost["evaluation"]["forward"] == {
        "student": schedule.epochs * 359, **({"teacher": bank.in_bank} if bank.in_bank else {})
    }  # fmt: skip
    assert bool(cost["synthesis"]["flops"]) is bool(cost["synthesis"]["forward"])
    for phase in ("distillation", "evaluation"):
        assert cost[phase]["flops"] > 0
        assert cost[phase]["seconds"] > 0
        assert cost[phase]["peak_memory"] > 0
    if not stream:
        assert bank.synthesised == 8 * rounds
        assert bank.in_bank == bank.synthesised + bank.kept
        assert bank.kept <= bank.augmented
        assert 0 <= bank.target_agreement <= 100
        assert ("augmentation" in cost) and (("filtering" in cost) == (bank.augmented > 0))
        assert cost["augmentation"]["images"] == bank.augmented


def test_dda_augments_every_synthesised_image_and_counts_its_network(tmp_path):
    workbench = bench(tmp_path)
    (spec,) = specs(workbench, "dda", "augmenter.variants=2", "filter.threshold=-1")
    record = workbench.run(spec)
    assert (record.bank.synthesised, record.bank.augmented, record.bank.kept, record.bank.in_bank) == (8, 16, 16, 24)
    steps, reached = 2, round(2 * 0.6)
    assert record.cost["augmentation"]["forward"]["diffusion"] == 2 * 8 + 16 * reached
    assert record.cost["augmentation"]["backward"]["diffusion"] == 2 * 8
    assert steps == spec.augmenter.options["steps"]


def test_a_record_that_is_there_is_returned_and_nothing_is_run(tmp_path):
    workbench = bench(tmp_path)
    (spec,) = specs(workbench, "noise")
    first, heard = workbench.run(spec), []
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with listening(workbench.registry, heard.append):
        assert workbench.run(spec) == first
        assert workbench.run(spec, retry=True) == first
    assert heard == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_other_seeds_are_other_runs(tmp_path):
    workbench = bench(tmp_path)
    first, second = (workbench.run(spec) for spec in specs(workbench, "noise", seeds=(0, 1)))
    assert first.run != second.run
    assert first.curve != second.curve


def test_the_students_first_weights_are_drawn_from_a_stream_of_their_own(tmp_path, monkeypatch):
    workbench, spec = faulty(tmp_path)
    seen = []

    def noted(self, round):
        seen.append(weights_hash(self.context.student.body.state_dict()))
        return grey(self.context)

    monkeypatch.setattr(FaultySynthesizer, "synthesize", noted)
    workbench.run(spec)
    with global_stream(stream_seed(spec.seed, "student/weights"), torch.device("cpu")):
        expected = build_model("resnet8", DIGITS, workbench.registry)
    assert seen[0] == weights_hash(expected.state_dict())
    assert seen[0] != seen[-1]


def test_a_run_tells_its_listeners_what_happens(tmp_path):
    workbench, heard = bench(tmp_path), []
    (spec,) = specs(workbench, "cmi")
    with listening(workbench.registry, heard.append):
        record = workbench.run(spec)
    kinds = [event.kind for event in heard]
    assert (kinds[0], kinds[-1], kinds.count("epoch")) == ("started", "finished", 2)
    assert kinds.count("progress") == 2 + 6
    assert {event.run for event in heard} == {spec.hash}
    assert {event.title for event in heard} == {"cmi resnet8:resnet8 digits seed 0"}
    assert heard[-1].data["record"] == record


FAULTS = [
    ("synthesizer.fault=nan", "diverged", r"^images are not finite after 8 were synthesised$", 0),
    ("distiller.fault=nan", "diverged", r"^the loss 'bad' is nan in epoch 1$", 0),
    ("distiller.fault=inf", "diverged", r"^the loss 'bad' is (inf|nan) in epoch 1$", 0),
    ("synthesizer.fault=making", "failed", r"^RuntimeError: made on purpose$", 0),
    ("synthesizer.fault=raises", "failed", r"^RuntimeError: on purpose$", 0),
    ("synthesizer.fault=range", "failed", r"^ValueError: images are not in \[0, 1\]$", 0),
    ("synthesizer.fault=shape", "failed", r"^ValueError: images are torch.float32 \[8, 1, 15, 16\], not float32", 0),
    ("synthesizer.fault=targets", "failed", r"^ValueError: targets are not in 0..9$", 0),
    ("synthesizer.fault=weights", "failed", r"^RuntimeError: a stage changed the teacher's weights or BatchNorm", 2),
    ("synthesizer.fault=statistics", "failed", r"^RuntimeError: a stage changed the teacher's weights or", 2),
    ("synthesizer.fault=nothing", "failed", r"^ValueError: the image bank is empty", 0),
    ("augmenter.fault=no source", "failed", r"^ValueError: augmented images do not name their sources", 0),
    ("augmenter.fault=a source too far", "failed", r"^ValueError: sources are not in 0..7$", 0),
    ("filter.fault=numbers", "failed", r"^ValueError: the filter answered torch.float32 \[8\], not bool \[8\]$", 0),
    ("filter.fault=too few", "failed", r"^ValueError: the filter answered torch.bool \[7\], not bool \[8\]$", 0),
    ("distiller.fault=none at all", "failed", r"^[A-Za-z]+Error: ", 0),
]


@pytest.mark.parametrize(("fault", "status", "reason", "epochs"), FAULTS, ids=[fault[0] for fault in FAULTS])
def test_what_goes_wrong_in_a_stage_is_a_row_with_its_reason(tmp_path, fault, status, reason, epochs):
    workbench, spec = faulty(tmp_path, fault)
    heard = []
    with listening(workbench.registry, heard.append):
        record = workbench.run(spec)
    assert record.status == status
    assert record.reason is not None
    assert re.search(reason, record.reason), record.reason
    assert record.accuracy is None
    assert len(record.curve) == epochs
    assert workbench.results.read(spec.hash) == record
    assert (heard[-1].kind, heard[-1].data["reason"]) == ("failed", record.reason)
    left = {path.name for path in workbench.results.folder(spec.hash).iterdir()}
    assert "checkpoint.pt" not in left
    assert ("traceback.txt" in left) is (status == "failed")
    if status == "failed":
        assert "Traceback" in (workbench.results.folder(spec.hash) / "traceback.txt").read_text(encoding="utf-8")


def test_without_a_fault_the_same_stages_finish(tmp_path):
    workbench, spec = faulty(tmp_path)
    record = workbench.run(spec)
    assert record.status == "finished"
    assert (record.bank.synthesised, record.bank.augmented, record.bank.kept) == (24, 24, 6)


def test_what_failed_is_run_again_only_when_asked_and_then_nothing_of_the_failure_stays(tmp_path, monkeypatch):
    workbench, spec = faulty(tmp_path, "synthesizer.fault=raises")
    failed = workbench.run(spec)
    monkeypatch.setattr(FaultySynthesizer, "synthesize", lambda self, round: grey(self.context))
    assert workbench.run(spec) == failed
    assert workbench.run(spec, retry=True).status == "finished"
    assert workbench.run(spec).status == "finished"
    left = {path.name for path in workbench.results.folder(spec.hash).iterdir()}
    assert left == {"record.json", "images.png"}


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


def test_the_record_does_not_depend_on_what_ran_before(tmp_path):
    first, second = bench(tmp_path / "first"), bench(tmp_path / "second")
    (noise,), (cmi,) = specs(first, "noise"), specs(first, "cmi")
    records = {noise.hash: first.run(noise), cmi.hash: first.run(cmi)}
    torch.rand(7)
    random.random()
    for spec in (cmi, noise):
        assert second.run(spec).without_times() == records[spec.hash].without_times()
