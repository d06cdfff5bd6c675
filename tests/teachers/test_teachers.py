from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from support.e2e_kit import RECIPE, Interrupts, listening, own_cache, teacher_file, teachers_folder  # noqa: F401

from dfkd_bench import DfkdError
from dfkd_bench.datasets import digits
from dfkd_bench.datasets.cards import CIFAR10, DIGITS
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.models.build import build_model
from dfkd_bench.spec import TeacherRef
from dfkd_bench.teachers.store import TeacherCard, TeacherStore
from dfkd_bench.teachers.training import Training
from dfkd_bench.teachers.weights import read_weights, save_weights, weights_hash
from dfkd_bench.workbench import Workbench


def store_in(folder: Path, checkpoint_seconds: float = 60) -> TeacherStore:
    bench = Workbench.make(teachers=folder, device="cpu", precision="fp32", registry=Registry())
    return TeacherStore(folder, bench.registry, bench.execution, checkpoint_seconds)


@pytest.fixture
def store(tmp_path):
    """A store with a copy of the tiny teacher."""
    folder = teacher_file().parent  # and none of those that other tests add beside it
    shutil.copytree(folder, tmp_path / "teachers" / folder.name)
    return store_in(tmp_path / "teachers")


def only(store: TeacherStore) -> tuple[Path, TeacherCard]:
    (found,) = store.cards()
    return found


def test_a_teacher_is_trained_once_and_found_again(store, monkeypatch):
    folder, card = only(store)
    opened = []
    monkeypatch.setattr(Training, "to_the_end", lambda *_: opened.append("trained"))
    for _ in range(2):
        teacher = store.obtain(TeacherRef(recipe=RECIPE), "resnet8", "digits")
        assert teacher.card == card
    assert opened == []
    assert not teacher.body.training
    assert weights_hash(teacher.body.state_dict()) == card.sha256
    store.train("resnet8", "digits", RECIPE.model_copy(update={"seed": 1}))
    assert opened == ["trained"]
    assert {path.name for path in folder.iterdir()} >= {"card.json", "weights.safetensors"}


def test_training_again_elsewhere_gives_the_same_weights_and_another_seed_others(store, tmp_path):
    _, card = only(store)
    again = store_in(tmp_path / "again")
    assert again.train("resnet8", "digits", RECIPE).card.sha256 == card.sha256
    assert again.train("resnet8", "digits", RECIPE.model_copy(update={"seed": 1})).card.sha256 != card.sha256


def test_the_card_says_what_the_teacher_is(store):
    _, card = only(store)
    assert (card.model, card.dataset, card.num_classes, card.image_shape) == ("resnet8", "digits", 10, (1, 16, 16))
    assert (card.mean, card.std) == (DIGITS.mean, DIGITS.std)
    assert card.recipe == RECIPE
    assert card.source == "trained here"
    assert card.training_images == 1438
    assert card.test_split == digits.load("test").fingerprint
    assert card.sha256 == weights_hash(read_weights(teacher_file()))
    assert card.accuracy > 20  # it learnt something in its few epochs
    assert card.accuracy_top5 >= card.accuracy


def test_a_teacher_is_found_by_its_hash_and_an_unknown_hash_is_one_sentence(store):
    _, card = only(store)
    assert store.obtain(TeacherRef(sha256=card.sha256), "resnet8", "digits").card == card
    with pytest.raises(DfkdError, match=r"^no teacher with weights 0{16} in .*: give its file with --teacher$"):
        store.obtain(TeacherRef(sha256="0" * 64), "resnet8", "digits")


def test_a_file_is_imported_once_and_measured(store, tmp_path, monkeypatch):
    _, card = only(store)
    torch.save({"state_dict": read_weights(teacher_file())}, tmp_path / "mine.pth")
    other = store_in(tmp_path / "other")
    imported = other.import_file(tmp_path / "mine.pth", "resnet8", "digits").card
    assert (imported.sha256, imported.accuracy) == (card.sha256, card.accuracy)
    assert (imported.source, imported.recipe, imported.training_images) == ("file mine.pth", None, None)
    monkeypatch.setattr(TeacherStore, "_keep", lambda *_, **__: pytest.fail("it is there already"))
    assert other.import_file(tmp_path / "mine.pth", "resnet8", "digits").card == imported


def timm_folder(path: Path, **normalization: list[float]) -> Path:
    """The tiny teacher's weights as timm's `save_for_hf` leaves them."""
    path.mkdir()
    shutil.copy(teacher_file(), path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"pretrained_cfg": normalization}), encoding="utf-8")
    return path


def test_equal_weights_with_another_normalization_are_another_teacher(tmp_path):
    store = store_in(tmp_path / "teachers")
    odd = timm_folder(tmp_path / "odd", mean=[0.9], std=[0.1])
    usual = timm_folder(tmp_path / "usual", mean=list(DIGITS.mean), std=list(DIGITS.std))
    checked = [store.check_file(file, "resnet8", "digits") for file in (odd, teacher_file(), usual)]
    first, second, third = (store.import_file(file, "resnet8", "digits") for file in (odd, teacher_file(), usual))
    assert first.card.sha256 == second.card.sha256
    assert (first.card.mean, second.card.mean) == ((0.9,), DIGITS.mean)
    assert first.card.accuracy != second.card.accuracy
    # The dataset's own normalization changes no identity: earlier specs and records keep their hashes.
    assert first.identity != second.identity == third.identity == second.card.sha256
    assert second.folder == third.folder != first.folder
    assert checked == [first.identity, second.identity, third.identity]
    for teacher in (first, second):
        found = store.obtain(TeacherRef(sha256=teacher.identity), "resnet8", "digits")
        assert (found.card, found.folder, found.identity) == (teacher.card, teacher.folder, teacher.identity)
        assert store.has(TeacherRef(sha256=teacher.identity), "resnet8", "digits")


def test_a_folder_of_an_earlier_version_with_the_odd_teacher_does_not_speak_for_the_usual_one(tmp_path):
    store = store_in(tmp_path / "teachers")
    odd = store.import_file(timm_folder(tmp_path / "odd", mean=[0.9], std=[0.1]), "resnet8", "digits")
    # Its name had the weights' hash alone.
    odd.folder.rename(store.path / f"digits-resnet8-{odd.card.sha256[:16]}")
    usual = store.import_file(teacher_file(), "resnet8", "digits")
    assert usual.card.mean == DIGITS.mean
    assert usual.identity == usual.card.sha256
    assert store.import_file(teacher_file(), "resnet8", "digits").folder == usual.folder
    assert store.obtain(TeacherRef(sha256=odd.identity), "resnet8", "digits").card == odd.card


def test_a_hash_does_not_stand_for_another_network_or_dataset(store):
    _, card = only(store)
    for model, dataset in (("resnet20", "digits"), ("resnet8", "cifar10")):
        assert not store.has(TeacherRef(sha256=card.sha256), model, dataset)
        with pytest.raises(DfkdError, match="^no teacher with weights"):
            store.obtain(TeacherRef(sha256=card.sha256), model, dataset)


def test_datasets_that_a_folders_name_spells_alike_have_teachers_of_their_own(store, monkeypatch):
    folder, card = only(store)
    same = card.model_copy(update={"dataset": "dig its"})
    monkeypatch.setattr("dfkd_bench.teachers.store._slug", lambda *parts: folder.name)
    assert store._folder("resnet8", "digits", RECIPE) == folder
    assert store._folder("resnet8", "dig its", RECIPE) != folder
    (folder / "card.json").write_text(same.model_dump_json(), encoding="utf-8")
    assert store._folder("resnet8", "dig its", RECIPE) == folder


@pytest.mark.parametrize(
    ("model", "classes", "sentence"),
    [
        ("wrn16_1", 10, r"^.*odd.safetensors (is no|does not fit) resnet8: "),
        ("resnet8", 7, r"^.*odd.safetensors does not fit resnet8: '.*' is \[7, 64\] there, \[10, 64\] here$"),
    ],
)
def test_weights_of_another_network_or_class_count_are_refused_and_nothing_is_kept(tmp_path, model, classes, sentence):
    names = tuple(map(str, range(classes)))
    card = DIGITS.model_copy(update={"num_classes": classes, "class_names": names})
    save_weights(build_model(model, card, Registry()).state_dict(), tmp_path / "odd.safetensors")
    store = store_in(tmp_path / "teachers")
    with pytest.raises(DfkdError, match=sentence):
        store.import_file(tmp_path / "odd.safetensors", "resnet8", "digits")
    assert not (tmp_path / "teachers").exists()


def test_verify_measures_anew(store):
    folder, card = only(store)
    assert store.verify(folder) == (card, card.accuracy)


def test_weights_that_are_not_the_cards_are_refused(store):
    folder, _ = only(store)
    state = read_weights(folder / "weights.safetensors")
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    save_weights({**state, name: state[name] + 1e-3}, folder / "weights.safetensors")
    for use in (
        lambda: store.verify(folder),
        lambda: store.obtain(TeacherRef(recipe=RECIPE), "resnet8", "digits"),
    ):
        with pytest.raises(
            DfkdError, match=r"^the weights in .* are not those of its card: remove the folder and make"
        ):
            use()


def test_damaged_weights_and_a_damaged_card_are_one_sentence_each(store):
    folder, _ = only(store)
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(DfkdError, match=r"weights.safetensors cannot be read as weights \(.+\): it may be damaged"):
        store.verify(folder)
    for content in (b"{", b"{}", b"\xff\xfe"):
        (folder / "card.json").write_bytes(content)
        with pytest.raises(
            DfkdError, match=r"card.json is no valid teacher card .*: remove the folder and make the teacher anew"
        ):
            list(store.cards())


def test_a_training_that_was_broken_off_leaves_no_teacher_and_the_next_one_trains_it(tmp_path, monkeypatch):
    store = store_in(tmp_path / "teachers")
    with monkeypatch.context() as patch:

        def broken(*_):
            raise KeyboardInterrupt

        patch.setattr(Training, "to_the_end", broken)
        with pytest.raises(KeyboardInterrupt):
            store.train("resnet8", "digits", RECIPE)
    assert list(store.cards()) == []
    assert store.train("resnet8", "digits", RECIPE).card.sha256 == weights_hash(read_weights(teacher_file()))


def test_a_training_that_is_broken_off_five_times_ends_in_the_same_weights(tmp_path, monkeypatch):
    monkeypatch.setattr("dfkd_bench.resume.checkpoint._SHARE", 0)
    recipe = RECIPE.model_copy(update={"epochs": 6})
    whole = store_in(tmp_path / "whole").train("resnet8", "digits", recipe).card
    pieces = store_in(tmp_path / "pieces", checkpoint_seconds=0)
    steps = whole.training_images // recipe.batch_size
    for _ in range(5):  # in the middle of the epoch behind the last checkpoint
        with listening(pieces.registry, Interrupts(steps + steps // 2)), pytest.raises(KeyboardInterrupt):
            pieces.train("resnet8", "digits", recipe)
        assert list(pieces.cards()) == []
    heard = []
    with listening(pieces.registry, heard.append):
        teacher = pieces.train("resnet8", "digits", recipe)
    assert sum(event.kind == "progress" for event in heard) == steps  # only the last epoch is left
    assert teacher.card.sha256 == whole.sha256
    assert not (teacher.folder / "checkpoint.pt").exists()


def test_a_training_does_not_resume_from_another_training(tmp_path, monkeypatch):
    monkeypatch.setattr("dfkd_bench.resume.checkpoint._SHARE", 0)
    store = store_in(tmp_path, checkpoint_seconds=0)
    with listening(store.registry, Interrupts(60)), pytest.raises(KeyboardInterrupt):
        store.train("resnet8", "digits", RECIPE)
    (checkpoint,) = tmp_path.glob("*/checkpoint.pt")
    content = torch.load(checkpoint, weights_only=True)
    torch.save({**content, "identity": {**content["identity"], "precision": "bf16"}}, checkpoint)
    with pytest.raises(DfkdError, match=r"was written with precision bf16, now it is fp32: go back to what it was, or"):
        store.train("resnet8", "digits", RECIPE)


@pytest.mark.parametrize("warmup", [0, 1])
def test_a_recipe_teaches_with_and_without_a_warm_up(tmp_path, warmup):
    recipe = RECIPE.model_copy(update={"epochs": 3, "warmup_epochs": warmup})
    assert store_in(tmp_path).train("resnet8", "digits", recipe).card.accuracy > 60


@pytest.mark.parametrize("warmup", [0, 1])
def test_the_learning_rate_starts_as_the_recipe_says_and_ends_at_zero(tmp_path, monkeypatch, warmup):
    rates, step = [], torch.optim.SGD.step

    def noted(self, *args, **kwargs):
        rates.append(self.param_groups[0]["lr"])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", noted)
    recipe = RECIPE.model_copy(update={"epochs": 2, "batch_size": 256, "lr": 0.2, "warmup_epochs": warmup})
    store_in(tmp_path).train("resnet8", "digits", recipe)
    assert len(rates) == 10  # five whole batches in each epoch
    assert max(rates) == pytest.approx(0.2)
    assert rates.index(max(rates)) == 5 * warmup
    assert rates[-1] < 0.04
    assert rates[0] == pytest.approx(0.2 * 1e-3 if warmup else 0.2)


def test_each_dataset_has_a_default_recipe():
    assert DIGITS.teacher_recipe.epochs < CIFAR10.teacher_recipe.epochs == 200
