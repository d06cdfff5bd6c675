from __future__ import annotations

import re

import pytest
import torch
from pydantic import Field
from support.e2e_kit import PAIR, RECIPE, bench, cli, own_cache, registry_with, small_recipe  # noqa: F401

from dfkd_bench import DfkdError, Method, Preset, StageOptions, Synthesizer, SyntheticBatch, use
from dfkd_bench.datasets.cards import DIGITS
from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.method import Schedule
from dfkd_bench.planning.protocols import BUDGETS, SHARED
from dfkd_bench.planning.requests import Override, Request, plan
from dfkd_bench.runs.runner import run_spec
from dfkd_bench.spec import Pair, TeacherRef

# It needs a transformer for a teacher.
METHODS = sorted(set(default_registry().provided("method")) - {"vit-inversion"})
STUDENT = ("epochs", "steps_per_epoch", "batch_size", "lr", "lr_schedule", "lr_min", "momentum", "nesterov")


class CountOptions(StageOptions):
    batch_size: int = Field(7, ge=0, description="images in a round")


class Counting(Synthesizer[CountOptions]):
    """Its images say which round made them."""

    Options = CountOptions
    seen: list[tuple[int, bool]] = []

    def synthesize(self, round):
        self.seen.append((round.index, round.warmup))
        shape = (self.options.batch_size, *self.context.card.image_shape)
        noise = torch.rand(shape, generator=self.context.generator) * 0.01
        return SyntheticBatch(noise + round.index / 100, torch.zeros(len(noise), dtype=torch.int64))


COUNTING = Method(
    name="counting",
    summary="counts",
    synthesizer=use("counting"),
    schedule={"lr": 0.1, "batch_size": 4, "epochs": 2, "steps_per_epoch": 2, "warmup_rounds": 1},
    presets=(Preset(name="quick"), Preset(name="odd")),
)


@pytest.fixture
def registry():
    Counting.seen = []
    return registry_with(synthesizer={"counting": Counting}, method=[COUNTING])


def planned(methods, *overrides, registry=None, protocol="matched", preset="quick", pair=PAIR, swaps=None):
    request = Request(
        methods=methods,
        pairs=[Pair.parse(pair)],
        dataset="digits",
        teacher=TeacherRef(recipe=RECIPE),
        preset=preset,
        overrides=[Override.parse(text) for text in overrides],
        protocol=protocol,
        swaps=swaps or {},
    )
    return plan(request, DIGITS, registry or default_registry())


@pytest.mark.parametrize("preset", ["quick", "paper"])
def test_matched_gives_every_method_the_same_samples_optimizer_cap_and_initial_bank(preset):
    # The model of dda's paper preset need not be on this machine.
    specs = planned(METHODS, preset=preset, swaps={"augmenter": "none"})
    assert len(specs) == len(METHODS)
    for spec in specs:
        stream = default_registry().load("synthesizer", spec.synthesizer.name).stream
        for name, value in BUDGETS[preset].items():
            if name != "initial_images":
                assert getattr(spec.schedule, name) == value, (spec.method, name)
        assert spec.schedule.initial_images == (None if stream else BUDGETS[preset]["initial_images"])
    assert any(spec.schedule.initial_images is None for spec in specs)
    assert {spec.protocol for spec in specs} == {"matched"}


def test_a_budget_names_every_field_of_the_students_side():
    own = {"rounds_per_epoch"}
    assert set(Schedule.model_fields) == SHARED | own
    for budget in BUDGETS.values():
        assert set(budget) == SHARED - {"warmup_rounds"}


def test_rounds_in_the_epochs_stay_the_methods_own():
    own = {spec.method: spec.schedule.rounds_per_epoch for spec in planned(METHODS, protocol="native")}
    assert {spec.method: spec.schedule.rounds_per_epoch for spec in planned(METHODS)} == own
    assert len(set(own.values())) > 2
    (spec,) = planned(["zskt"], "schedule.steps_per_epoch=5")
    assert spec.schedule.rounds_per_epoch == 5  # a round for each step is the most there can be


def test_native_is_the_methods_own_schedule_and_matched_another_run():
    (native,), (shared,) = planned(["cmi"], protocol="native"), planned(["cmi"])
    assert native.schedule.initial_images is None
    assert native.schedule.warmup_rounds > 0
    assert native.hash != shared.hash
    assert native.settings != shared.settings


def test_an_override_for_all_changes_the_budget_of_all():
    specs = planned(["cmi", "noise", "zskt"], "schedule.epochs=2", "schedule.initial_images=40", "schedule.lr=0.2")
    assert {spec.schedule.epochs for spec in specs} == {2}
    assert {spec.schedule.lr for spec in specs} == {0.2}
    assert [spec.schedule.initial_images for spec in specs] == [40, 40, None]


@pytest.mark.parametrize("field", sorted(SHARED))
def test_an_override_of_the_budget_for_one_method_is_refused(field):
    with pytest.raises(DfkdError, match=rf"^the protocol matched gives every method the same {field}, so it cannot"):
        planned(["cmi", "noise"], f"cmi:schedule.{field}=1")


def test_what_is_the_methods_own_may_be_set_for_it_alone():
    (spec,) = planned(["cmi"], "cmi:schedule.rounds_per_epoch=2", "cmi:synthesizer.steps=3")
    assert (spec.schedule.rounds_per_epoch, spec.synthesizer.options["steps"]) == (2, 3)


def test_a_preset_without_a_budget_is_refused(registry):
    with pytest.raises(DfkdError, match=r"^the protocol 'matched' has no budget for the preset 'odd': choose quick or"):
        planned(["counting"], registry=registry, preset="odd")
    with pytest.raises(DfkdError, match=r"^unknown protocol 'matchd': did you mean matched\?$"):
        planned(["cmi"], protocol="matchd")


def test_a_stream_has_no_initial_images():
    with pytest.raises(DfkdError, match=r"^zskt makes fresh images for every step and keeps none"):
        planned(["zskt"], "schedule.initial_images=5", protocol="native")


SMALL = ("schedule.epochs=2", "schedule.steps_per_epoch=2", "schedule.batch_size=4", "schedule.initial_images=20")


@pytest.mark.parametrize("batch", [7, 20, 64, 5])
def test_the_warm_up_ends_with_so_many_images_and_rounds_go_on_counting(tmp_path, registry, batch):
    workbench = bench(tmp_path, registry)
    (spec,) = planned(["counting"], *SMALL, f"synthesizer.batch_size={batch}", registry=registry)
    record = run_spec(spec, workbench.results, workbench.store)
    assert record.status == "finished", record.reason
    rounds = -(-20 // batch)
    assert Counting.seen == [*((index, True) for index in range(rounds)), (rounds, False), (rounds + 1, False)]
    assert record.bank.synthesized == (rounds + 2) * batch  # what was cut off was paid for
    assert record.bank.in_bank == 20 + 2 * batch


def test_a_warm_up_that_makes_nothing_is_a_row_and_no_endless_loop(tmp_path, registry):
    (spec,) = planned(["counting"], *SMALL, "synthesizer.batch_size=0", registry=registry)
    workbench = bench(tmp_path, registry)
    record = run_spec(spec, workbench.results, workbench.store)
    assert (record.status, record.reason) == (
        "failed",
        "ValueError: the warm-up needs 20 images, and a round of it made none",
    )


class BrokenOffError(BaseException):
    """As good as a kill for whoever must not catch it."""


def test_a_run_broken_off_in_its_warm_up_ends_in_the_same_record(tmp_path, registry, monkeypatch):
    monkeypatch.setattr("dfkd_bench.resume.checkpoint._SHARE", 0)
    (spec,) = planned(["counting"], *SMALL, registry=registry)
    other = bench(tmp_path / "alone", registry)
    alone = run_spec(spec, other.results, other.store)
    whole, Counting.seen = Counting.seen, []
    workbench, made = bench(tmp_path / "broken", registry), Counting.synthesize

    def breaking(self, round):
        if round.index in (1, 2, 4) and (round.index, round.warmup) not in broken:
            broken.append((round.index, round.warmup))
            raise BrokenOffError
        return made(self, round)

    broken: list[tuple[int, bool]] = []
    monkeypatch.setattr(Counting, "synthesize", breaking)
    for _ in range(3):
        with pytest.raises(BrokenOffError):
            run_spec(spec, workbench.results, workbench.store, checkpoint_seconds=0)
    record = run_spec(spec, workbench.results, workbench.store, checkpoint_seconds=0)
    assert broken == [(1, True), (2, True), (4, False)]
    assert Counting.seen == whole  # none twice, none left out
    assert record.without_times() == alone.without_times()


def test_the_command_line_has_protocol_and_seeds(tmp_path, small_recipe):  # noqa: F811
    asked = ("run", "--method", "noise", "--pair", PAIR, "--dry-run", "--device", "cpu", "--results", tmp_path / "r")
    shown = cli(*asked, "--protocol", "matched", "--seeds", "3")
    assert shown.code == 0, shown
    assert re.findall(r"seed (\d), matched: noise ->", shown.out) == ["0", "1", "2"]
    assert "native" not in shown.out
    assert "matched" not in cli(*asked).out
    assert "give one of the two" in cli(*asked, "--seeds", "3", "--seed", "0").sentence()
    assert cli(*asked, "--protocol", "mixed").code == 2
    assert cli("run", "--pair", PAIR).sentence().startswith("say what to run: --method and --pair, or a grid file")
