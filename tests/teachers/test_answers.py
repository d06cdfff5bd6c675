from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file
from support.e2e_kit import PAIR, RECIPE, bench, own_cache

from dfkd_bench.datasets.access import open_dataset
from dfkd_bench.evaluation import Evaluator
from dfkd_bench.stages.network import Network
from dfkd_bench.teachers.answers import teacher_answers

__all__ = ["own_cache"]
CPU = torch.device("cpu")


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What `teacher_answers` takes, with a teacher of this test's own; and how often the teacher was asked."""
    workbench = bench(tmp_path)
    store = type(workbench.store)(tmp_path / "teachers", workbench.registry, workbench.execution)
    teacher = store.train(PAIR.partition(":")[0], "digits", RECIPE)
    evaluator = Evaluator(open_dataset("digits", workbench.registry).load("test"), CPU)
    times, reference = [], Evaluator.reference

    def counted(self, network):
        times.append(1)
        return reference(self, network)

    monkeypatch.setattr(Evaluator, "reference", counted)
    return (teacher, Network(teacher.body, teacher.card), evaluator, CPU), times


def test_a_teacher_is_asked_once_and_its_answers_are_its_own(asked):
    arguments, times = asked
    first, second = teacher_answers(*arguments), teacher_answers(*arguments)
    assert len(times) == 1
    assert torch.equal(first, second)
    teacher, network, evaluator, _ = arguments
    with evaluator._stored.opened() as (_, labels):
        right = (first == labels).float().mean()
    assert 100 * float(right) == pytest.approx(teacher.card.accuracy, abs=1e-3)


@pytest.mark.parametrize("damage", ["cut", "another's", "otherwise normalized", "too few", "no class", "a folder"])
def test_answers_that_do_not_fit_are_computed_anew(asked, damage):
    arguments, times = asked
    expected = teacher_answers(*arguments)
    (path,) = arguments[0].folder.glob("answers-*")
    metadata = {
        "weights": arguments[0].card.sha256,
        "normalization": f"{arguments[0].card.mean} {arguments[0].card.std}",
        "test_split": arguments[2].fingerprint,
        "device": "cpu",
        "torch": torch.__version__,
    }
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-9])
    elif damage == "a folder":
        path.unlink()
        path.mkdir()
    else:
        wrong = {"too few": expected[:-1], "no class": torch.full_like(expected, 10)}.get(damage, 9 - expected)
        other = {"another's": {"weights": "0"}, "otherwise normalized": {"normalization": "(0.9,) (0.1,)"}}
        save_file({"answers": wrong}, path, {**metadata, **other.get(damage, {})})
    assert torch.equal(teacher_answers(*arguments), expected)
    assert len(times) == 2


def test_a_folder_that_cannot_be_written_changes_no_answer(asked, monkeypatch):
    arguments, times = asked
    expected = teacher_answers(*arguments)
    for path in arguments[0].folder.glob("answers-*"):
        path.unlink()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dfkd_bench.teachers.answers.save_file", full)
    assert torch.equal(teacher_answers(*arguments), expected)
    assert not list(arguments[0].folder.glob("*answers-*"))
