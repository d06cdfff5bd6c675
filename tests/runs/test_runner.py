from __future__ import annotations

import random
import re
from typing import ClassVar

import pytest
import torch
from PIL import Image
from support.e2e_kit import (
    ATTENTIVE,
    PAIR,
    bench,
    listening,
    own_cache,  # noqa: F401
    registry_with,
    specs,
)
from support.faulty_stages import FaultOptions, FaultySynthesizer, faulty, gray

from dfkd_bench import Synthesizer
from dfkd_bench.datasets.cards import DIGITS
from dfkd_bench.hooks.registry import STAGE_KINDS, default_registry
from dfkd_bench.models.build import build_model
from dfkd_bench.results.records import Record
from dfkd_bench.runs.runner import run_spec
from dfkd_bench.sharing.numbers import check_curve
from dfkd_bench.stages.seeds import global_stream, stream_seed
from dfkd_bench.teachers.weights import weights_hash

METHODS = sorted(default_registry().provided("method"))


def declared_prior(registry, spec, kind):
    stage, choice = registry.load(kind, getattr(spec, kind).name), getattr(spec, kind)
    return stage.prior_with(stage.Options.model_validate(choice.options))


def wanted_images(registry, spec):
    stage = registry.load("synthesizer", spec.synthesizer.name)
    return stage.images_wanted(stage.Options.model_validate(spec.synthesizer.options), DIGITS)


class Watching(Synthesizer[FaultOptions]):
    """Notes whether the student is frozen."""

    Options = FaultOptions
    stream = True
    seen: ClassVar[list[str]] = []

    def note(self, where):
        student = self.context.student
        free = student.training or any(parameter.requires_grad for parameter in student.parameters())
        self.seen.append(f"{where}: {'free' if free else 'frozen'}")

    def __init__(self, options, context):
        super().__init__(options, context)
        self.note("making")

    def synthesize(self, round):
        self.note("round")
        return gray(self.context)

    def sample(self, count):
        self.note("sample")
        return gray(self.context, count)

    def after_distill_step(self, batch):
        self.note("after")


def test_the_student_is_frozen_but_after_its_step(tmp_path):
    workbench = bench(tmp_path, registry_with(synthesizer={"watching": Watching}))
    (spec,) = specs(workbench, "noise", swaps={"synthesizer": "watching"})
    assert run_spec(spec, workbench.results, workbench.store).status == "finished"
    assert set(Watching.seen) == {"making: frozen", "round: frozen", "sample: frozen", "after: free"}


def test_steps_that_grow_are_counted_as_they_are_made(tmp_path):
    workbench = bench(tmp_path)
    growing = ("schedule.growing=true", "schedule.optimizer=adamw", "schedule.epochs=3", "schedule.lr=0.001")
    (spec,) = specs(workbench, "noise", *growing)
    record = run_spec(spec, workbench.results, workbench.store)
    assert [point.steps for point in record.curve()] == [3, 9, 18]
    assert record.cost["distillation"]["images"] == 18 * spec.schedule.batch_size
    # The mean of an epoch's losses, not their sum over a tenth of it: a student that knows nothing is near it.
    assert all(0 < point.losses["kd"] < 60 for point in record.curve())
    assert not list(check_curve(tmp_path, record, record.curve()))


def test_what_a_stream_makes_in_the_students_steps_is_synthesis(tmp_path):
    workbench = bench(tmp_path)
    (spec,) = specs(workbench, "zskt")
    record, schedule = run_spec(spec, workbench.results, workbench.store), spec.schedule
    rounds = schedule.warmup_rounds + schedule.epochs * schedule.rounds_per_epoch
    samples = schedule.epochs * schedule.steps_per_epoch * schedule.batch_size
    cost = record.cost["synthesis"]
    assert record.bank.synthesized == cost["images"] == rounds * 8 + samples
    assert cost["forward"]["generator"] >= rounds * 8 + samples
    assert "generator" not in record.cost["distillation"]["forward"]


def test_a_picture_that_cannot_be_drawn_costs_no_record(tmp_path, monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr("dfkd_bench.runs.pictures.Gallery.write", broken)
    workbench, spec = faulty(tmp_path)
    record = run_spec(spec, workbench.results, workbench.store)
    assert (record.status, record.images) == ("finished", None)
    trace = workbench.results.folder(spec.hash) / "traceback.txt"
    assert "device-side assert" in trace.read_text(encoding="utf-8")
    _, failing = faulty(tmp_path, "synthesizer.fault=raises")
    assert run_spec(failing, workbench.results, workbench.store).reason == "RuntimeError: on purpose"
    assert "device-side" not in (workbench.results.folder(failing.hash) / "traceback.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_runs_to_a_whole_record_and_the_same_spec_gives_the_same_record(tmp_path, method):
    once, again = bench(tmp_path / "once"), bench(tmp_path / "again")
    (spec,) = specs(once, method, pair=ATTENTIVE if method == "vit-inversion" else PAIR)
    if wanted_images(once.registry, spec) not in (None, "digits"):
        pytest.skip("it wants the images of a dataset that is not bundled")
    record = run_spec(spec, once.results, once.store)
    assert record.status == "finished", record.reason
    assert record.run == spec.hash
    assert [point.epoch for point in record.curve()] == [1, 2]
    assert [point.steps for point in record.curve()] == [3, 6]
    if spec.schedule.lr_schedule == "cosine" and not spec.schedule.lr_min:
        assert [point.lr for point in record.curve()] == pytest.approx([spec.schedule.lr, spec.schedule.lr / 2])
    assert all(point.losses for point in record.curve())
    assert record.accuracy is not None
    assert record.accuracy.last == record.curve()[-1].accuracy
    assert record.accuracy.oracle_best == max(point.accuracy for point in record.curve())
    assert record.curve()[record.accuracy.oracle_epoch - 1].accuracy == record.accuracy.oracle_best
    registry = once.registry
    assert record.priors == {kind: declared_prior(registry, spec, kind) for kind in STAGE_KINDS}
    assert record.teacher.sha256 == once.store.obtain(spec.teacher, spec.pair.teacher, "digits").card.sha256
    _check_bank_and_cost(record, stream=registry.load("synthesizer", spec.synthesizer.name).stream)
    folder = once.results.folder(spec.hash)
    assert {path.name for path in folder.iterdir()} == {"record.json", "curve.csv", "images.png"}
    with Image.open(folder / "images.png") as picture:
        picture.load()
        assert picture.width > 16 * 48
    assert run_spec(spec, again.results, again.store).without_times() == record.without_times()
    assert (again.results.folder(spec.hash) / "images.png").read_bytes() == (folder / "images.png").read_bytes()


def _check_bank_and_cost(record: Record, *, stream: bool) -> None:
    schedule, bank, cost = record.spec.schedule, record.bank, record.cost
    rounds = schedule.warmup_rounds + schedule.epochs * schedule.rounds_per_epoch
    assert cost["synthesis"]["images"] == bank.synthesized
    assert cost["distillation"]["images"] == schedule.epochs * schedule.steps_per_epoch * schedule.batch_size == 48
    assert cost["distillation"]["forward"]["student"] >= 48
    assert cost["distillation"]["backward"]["student"] >= 48
    assert cost["evaluation"]["images"] == schedule.epochs * 359
    assert cost["evaluation"]["forward"] == {
        "student": schedule.epochs * 359, **({"teacher": bank.in_bank} if bank.in_bank and not stream else {})
    }  # fmt: skip
    assert bool(cost["synthesis"]["flops"]) is bool(cost["synthesis"]["forward"])
    for phase in ("distillation", "evaluation"):
        assert cost[phase]["flops"] > 0
        assert cost[phase]["seconds"] > 0
        assert cost[phase]["peak_memory"] > 0
    if not stream:
        assert bank.synthesized == 8 * rounds
        assert bank.in_bank == bank.synthesized + bank.kept
        assert bank.kept <= bank.augmented
        assert 0 <= bank.target_agreement <= 100
        assert ("augmentation" in cost) and (("filtering" in cost) == (bank.augmented > 0))
        assert cost["augmentation"]["images"] == bank.augmented


def test_dda_augments_every_synthesized_image_and_counts_its_network(tmp_path):
    workbench = bench(tmp_path)
    (spec,) = specs(workbench, "dda", "augmenter.variants=2", "filter.threshold=-1")
    record = run_spec(spec, workbench.results, workbench.store)
    assert (record.bank.synthesized, record.bank.augmented, record.bank.kept, record.bank.in_bank) == (8, 16, 16, 24)
    steps, reached = 2, round(2 * 0.6)
    assert record.cost["augmentation"]["forward"]["diffusion"] == 2 * 8 + 16 * reached
    assert record.cost["augmentation"]["backward"]["diffusion"] == 2 * 8
    assert steps == spec.augmenter.options["steps"]


def test_a_record_that_is_there_is_returned_and_nothing_is_run(tmp_path):
    workbench = bench(tmp_path)
    (spec,) = specs(workbench, "noise")
    first, heard = run_spec(spec, workbench.results, workbench.store), []
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with listening(workbench.registry, heard.append):
        assert run_spec(spec, workbench.results, workbench.store) == first
        assert run_spec(spec, workbench.results, workbench.store, retry=True) == first
    assert heard == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_other_seeds_are_other_runs(tmp_path):
    workbench = bench(tmp_path)
    first, second = (
        run_spec(spec, workbench.results, workbench.store) for spec in specs(workbench, "noise", seeds=(0, 1))
    )
    assert first.run != second.run
    assert first.curve() != second.curve()


def test_the_students_first_weights_are_drawn_from_a_stream_of_their_own(tmp_path, monkeypatch):
    workbench, spec = faulty(tmp_path)
    seen = []

    def noted(self, round):
        seen.append(weights_hash(self.context.student.body.state_dict()))
        return gray(self.context)

    monkeypatch.setattr(FaultySynthesizer, "synthesize", noted)
    run_spec(spec, workbench.results, workbench.store)
    with global_stream(stream_seed(spec.seed, "student/weights"), torch.device("cpu")):
        expected = build_model("resnet8", DIGITS, workbench.registry)
    assert seen[0] == weights_hash(expected.state_dict())
    assert seen[0] != seen[-1]


def test_a_run_tells_its_listeners_what_happens(tmp_path):
    workbench, heard = bench(tmp_path), []
    (spec,) = specs(workbench, "cmi")
    with listening(workbench.registry, heard.append):
        record = run_spec(spec, workbench.results, workbench.store)
    kinds = [event.kind for event in heard]
    assert (kinds[0], kinds[-1], kinds.count("epoch")) == ("started", "finished", 2)
    assert kinds.count("progress") == 2 + 6
    assert {event.run for event in heard} == {spec.hash}
    assert {event.title for event in heard} == {"cmi resnet8:resnet8 digits seed 0"}
    assert heard[-1].data["record"] == record


FAULTS = [
    ("synthesizer.fault=nan", "diverged", r"^images are not finite after 8 were synthesized$", 0),
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
        record = run_spec(spec, workbench.results, workbench.store)
    assert record.status == status
    assert record.reason is not None
    assert re.search(reason, record.reason), record.reason
    assert record.accuracy is None
    assert len(record.curve()) == epochs
    assert workbench.results.read(spec.hash) == record
    assert (heard[-1].kind, heard[-1].data["reason"]) == ("failed", record.reason)
    left = {path.name for path in workbench.results.folder(spec.hash).iterdir()}
    assert "checkpoint.pt" not in left
    assert ("traceback.txt" in left) is (status == "failed")
    if status == "failed":
        assert "Traceback" in (workbench.results.folder(spec.hash) / "traceback.txt").read_text(encoding="utf-8")


def test_without_a_fault_the_same_stages_finish(tmp_path):
    workbench, spec = faulty(tmp_path)
    record = run_spec(spec, workbench.results, workbench.store)
    assert record.status == "finished"
    assert (record.bank.synthesized, record.bank.augmented, record.bank.kept) == (24, 24, 6)


def test_what_failed_is_run_again_only_when_asked_and_then_nothing_of_the_failure_stays(tmp_path, monkeypatch):
    workbench, spec = faulty(tmp_path, "synthesizer.fault=raises")
    failed = run_spec(spec, workbench.results, workbench.store)
    monkeypatch.setattr(FaultySynthesizer, "synthesize", lambda self, round: gray(self.context))
    assert run_spec(spec, workbench.results, workbench.store) == failed
    assert run_spec(spec, workbench.results, workbench.store, retry=True).status == "finished"
    assert run_spec(spec, workbench.results, workbench.store).status == "finished"
    left = {path.name for path in workbench.results.folder(spec.hash).iterdir()}
    assert left == {"record.json", "curve.csv", "images.png"}


def test_the_record_does_not_depend_on_what_ran_before(tmp_path):
    first, second = bench(tmp_path / "first"), bench(tmp_path / "second")
    (noise,), (cmi,) = specs(first, "noise"), specs(first, "cmi")
    records = {
        noise.hash: run_spec(noise, first.results, first.store),
        cmi.hash: run_spec(cmi, first.results, first.store),
    }
    torch.rand(7)
    random.random()
    for spec in (cmi, noise):
        assert run_spec(spec, second.results, second.store).without_times() == records[spec.hash].without_times()
