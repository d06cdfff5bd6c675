"""`Filter.select`: on the batches that the student is about to take."""

from __future__ import annotations

from typing import ClassVar

import pytest
import torch
from pydantic import Field
from support.e2e_kit import bench, own_cache, registry_with, specs  # noqa: F401

from dfkd_bench import DfkdError, Distiller, Filter, StageOptions, SyntheticBatch
from dfkd_bench.contract import check_stage
from dfkd_bench.runs.runner import run_spec
from dfkd_bench.sharing.numbers import check_numbers
from dfkd_bench.stages.base import check_methods
from dfkd_bench.stages.joined import joined


class SelectorOptions(StageOptions):
    every: int = Field(2, ge=1, description="the brightest of so many images in a row is selected; more than 99: none")


class Selector(Filter[SelectorOptions]):
    """Selects a fixed share of each batch by brightness."""

    Options = SelectorOptions

    def select(self, batch):
        assert not torch.is_grad_enabled()
        assert not self.context.student.training
        count = len(batch) // self.options.every if self.options.every < 100 else 0
        chosen = batch.images.mean(dim=(1, 2, 3)).argsort(descending=True)[:count]
        answer = torch.zeros(len(batch), dtype=torch.bool)
        answer[chosen] = True
        return answer


class Sevenths(Filter[StageOptions]):
    """Of each batch all but the first."""

    def select(self, batch):
        return torch.arange(len(batch)) > 0


class Note(Distiller[StageOptions]):
    sizes: ClassVar[list[int]] = []

    def losses(self, student, teacher, batch):
        self.sizes.append(len(batch))
        return {"l": student(batch.images).square().mean()}


def run(folder, method, *overrides, filters="selector", augmenter="none"):
    Note.sizes = []
    registry = registry_with(filter={"selector": Selector, "sevenths": Sevenths}, distiller={"note": Note})
    workbench = bench(folder, registry)
    swaps = {"filter": filters, "distiller": "note", "augmenter": augmenter}
    (spec,) = specs(workbench, method, *overrides, swaps=swaps)
    return run_spec(spec, workbench.results, workbench.store)


@pytest.mark.parametrize("method", ["noise", "dfq"])
def test_images_are_drawn_until_the_students_batch_is_full_and_the_share_is_recorded(tmp_path, method):
    record = run(tmp_path, method)
    assert record.status == "finished", record.reason
    steps, size = record.spec.schedule.steps_until(record.spec.schedule.epochs), record.spec.schedule.batch_size
    assert Note.sizes == [size] * steps
    assert (record.bank.drawn, record.bank.selected) == (2 * size * steps, size * steps)
    assert record.cost["filtering"]["images"] == 2 * size * steps
    if method == "dfq":
        assert record.bank.synthesized >= 2 * size * steps
    assert not list(check_numbers(tmp_path, record))


def test_what_is_too_much_is_left_out(tmp_path):
    record = run(tmp_path, "noise", filters="sevenths")
    steps = len(Note.sizes)
    assert set(Note.sizes) == {8}
    assert (record.bank.drawn, record.bank.selected) == (16 * steps, 14 * steps)


def test_joined_filters_select_what_each_of_them_selects(tmp_path):
    both = joined(("selector", "sevenths"), (Selector, Sevenths))
    assert both.judges_batches()
    assert not both.judges_augmented()
    assert joined(("all", "selector"), (Kept, Selector)).judges_augmented()
    record = run(tmp_path, "noise", filters="selector+sevenths", augmenter="none")
    assert record.status == "finished"
    assert record.bank.selected < record.bank.drawn / 2 + 8


class Kept(Filter[StageOptions]):
    def keep(self, augmented, source):
        return augmented.targets >= 0


def test_a_filter_that_selects_too_little_is_a_failed_run_with_the_share(tmp_path):
    record = run(tmp_path, "noise", "filter.every=100")
    assert record.status == "failed"
    assert record.reason == (
        "ValueError: the filter 'selector' selected 0 of 400 images, too few for the student's batch of 8: loosen it"
    )


def test_a_filter_without_select_is_refused_beside_a_stream_also_where_it_is_joined(tmp_path):
    with pytest.raises(DfkdError, match="^dfq cannot use the filter 'agreement': its synthesizer"):
        run(tmp_path, "dfq", filters="selector+agreement")
    with pytest.raises(DfkdError, match="^noise cannot use the filter 'agreement': it judges augmented images"):
        run(tmp_path, "noise", filters="selector+agreement")


def test_a_filter_needs_keep_or_select():
    class Neither(Filter[StageOptions]):
        def selct(self, batch):
            """Misspelled."""

    with pytest.raises(DfkdError, match="Neither has neither 'keep' nor 'select'"):
        check_methods(Neither)
    check_methods(Selector)
    check_methods(Kept)


class Nothing(Filter[StageOptions]):
    def select(self, batch):
        return batch.targets < 0


class ByPlace(Filter[StageOptions]):
    def select(self, batch):
        return torch.arange(len(batch)) < len(batch) // 2


@pytest.mark.parametrize(
    ("stage", "reason"),
    [(Selector, None), (Nothing, "it selects none of the student's images"), (ByPlace, "in another order")],
)
def test_the_kit_tells_right_selections_from_wrong_ones(stage, reason):
    failed = [finding.reason for finding in check_stage(stage) if finding.verdict == "fail"]
    assert len(failed) == (reason is not None)
    assert all(reason in told for told in failed)


def test_batches_are_joined_with_their_soft_labels():
    hard = SyntheticBatch(torch.zeros(1, 1, 2, 2), torch.tensor([2]))
    soft = SyntheticBatch(torch.ones(1, 1, 2, 2), torch.tensor([0]), soft=torch.tensor([[0.5, 0.25, 0.25]]))
    both = SyntheticBatch.joined([hard, soft])
    assert both.targets.tolist() == [2, 0]
    assert both.soft.tolist() == [[0, 0, 1], [0.5, 0.25, 0.25]]
    assert SyntheticBatch.joined([hard]).soft is None
