"""Teachers: trained on first use or read from a file, kept with a card, found again by hash, verified."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock
import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from dfkd_bench.card import TeacherRecipe
from dfkd_bench.datasets.access import Dataset, open_dataset
from dfkd_bench.datasets.split import Split
from dfkd_bench.environment import Execution, arithmetic, describe
from dfkd_bench.errors import DfkdError, Report, raise_it
from dfkd_bench.evaluation import Evaluator
from dfkd_bench.files import listed, replacing, writable_folder
from dfkd_bench.foreign import Number, read_model
from dfkd_bench.hooks.events import RunEvent
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.models.build import build_model
from dfkd_bench.results.records import Environment
from dfkd_bench.resume.checkpoint import Checkpoint, training_identity
from dfkd_bench.spec import TeacherRef, content_hash
from dfkd_bench.stages.network import Network, Normalization
from dfkd_bench.stages.seeds import global_stream, stream_seed
from dfkd_bench.teachers.training import Training
from dfkd_bench.teachers.weights import (
    Source,
    find_weights,
    fit,
    read_weights,
    save_weights,
    teacher_identity,
    weights_hash,
)

__all__ = ["Teacher", "TeacherCard", "TeacherStore", "near_chance"]


def near_chance(accuracy: float, num_classes: int) -> bool:
    """Whether an accuracy in percent is little above that of guessing: by half of it, or a tenth of what is left."""
    chance = 100 / num_classes
    return accuracy < min(1.5 * chance, chance + (100 - chance) / 10)


_REMEDY = "remove the folder and make the teacher anew"


class TeacherCard(BaseModel):
    """What is known of a teacher's weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str
    dataset: str
    num_classes: int
    image_shape: tuple[int, int, int]
    mean: tuple[Number, ...]
    std: tuple[Number, ...]
    sha256: str
    accuracy: Number
    accuracy_top5: Number
    test_split: str
    recipe: TeacherRecipe | None
    source: str
    training_images: int | None = None
    note: str | None = None
    seconds: float | None = None
    environment: Environment
    made: datetime

    def doubt(self) -> str | None:
        """A sentence where the accuracy is near that of guessing, from which no student can learn; else None."""
        if not near_chance(self.accuracy, self.num_classes):
            return None
        return (
            f"the teacher {self.model} is right on {self.accuracy:.2f} % of {self.dataset}'s test split, near chance "
            f"({100 / self.num_classes:.2f} %): check its weights, its normalization and the recipe"
        )


@dataclass(frozen=True)
class Teacher:
    """A teacher in memory.

    Attributes:
        card: what is known of it.
        body: the network with its weights, in evaluation mode.
        folder: where both are kept.
        identity: what a spec and a record know it by; see `teacher_identity`.
    """

    card: TeacherCard
    body: nn.Module
    folder: Path
    identity: str


class TeacherStore:
    """A folder of teachers, each in a folder of its own with `weights.safetensors` and `card.json`.

    Args:
        path: the folder.
        registry: where networks and datasets come from.
        execution: device, precision, data root.
        checkpoint_seconds: least time between two checkpoints of a training.
    """

    def __init__(self, path: Path, registry: Registry, execution: Execution, checkpoint_seconds: float = 60) -> None:
        self.path = path
        self.registry = registry
        self.execution = execution
        self.checkpoint_seconds = checkpoint_seconds

    def has(self, ref: TeacherRef, model: str, dataset: str) -> bool:
        """Whether the teacher that a spec names is there already."""
        if ref.sha256 is not None:
            return self._given(ref.sha256, model, dataset) is not None
        assert ref.recipe is not None
        return (self._folder(model, dataset, ref.recipe) / "card.json").exists()

    def _folder(self, model: str, dataset: str, recipe: TeacherRecipe) -> Path:
        folder = self.path / _slug(dataset, model, content_hash(recipe))
        # Two datasets may be spelled alike in a folder's name.
        return _untaken(folder, (dataset, model), lambda card: (card.dataset, card.model))

    def _given(self, identity: str, model: str, dataset: str, report: Report = lambda error: None) -> Path | None:
        """The folder of a teacher that was imported for this network and dataset."""
        for folder, card in self.cards(report):
            if (card.model, card.dataset) == (model, dataset) and self.identity(card) == identity:
                return folder
        return None

    def identity(self, card: TeacherCard) -> str:
        """What specs know the teacher of a card by; the weights' hash alone if its dataset is gone."""
        if card.recipe is not None:  # it was trained here, with the dataset's normalization
            return card.sha256
        try:
            usual = open_dataset(card.dataset, self.registry, self.execution.data_root).card
        except DfkdError:
            return card.sha256
        return teacher_identity(card.sha256, card, usual)

    def obtain(self, ref: TeacherRef, model: str, dataset: str) -> Teacher:
        """The teacher that a spec names; one of a recipe is trained if it is not there yet.

        Raises:
            DfkdError: weights of that hash are not in the store, or data or folder are missing.
        """
        if ref.sha256 is not None:
            odd: list[DfkdError] = []
            found = self._given(ref.sha256, model, dataset, odd.append)
            if found is None:
                left_out = f" (left out: {'; '.join(map(str, odd))})" if odd else ""
                raise DfkdError(
                    f"no teacher with weights {ref.sha256[:16]} in {self.path}{left_out}: give its file with --teacher"
                )
            return self._load(found)
        assert ref.recipe is not None
        return self.train(model, dataset, ref.recipe)

    def train(self, model: str, dataset: str, recipe: TeacherRecipe) -> Teacher:
        """The teacher of a recipe, trained now if it is not there yet. Two processes do not train it twice."""
        folder = self._folder(model, dataset, recipe)
        if not (folder / "card.json").exists():
            writable_folder(folder, "teacher's")
            with filelock.FileLock(folder / ".lock"):
                if not (folder / "card.json").exists():
                    self._train(model, dataset, recipe, folder)
        return self._load(folder)

    def import_file(self, file: Path | str, model: str, dataset: str) -> Teacher:
        """A teacher from weights: checked, measured on the test split, and kept with a card.

        Args:
            file: a file of weights, a folder as timm's `save_for_hf` leaves it, or timm's own `timm/<name>.<tag>`.
            model: the network.
            dataset: what it was trained on.

        Raises:
            DfkdError: the weights cannot be read, or do not fit the network and dataset.
        """
        body, data, source = self._fitted(file, model, dataset)
        norm = source.normalization or data.card
        weights = weights_hash(body.state_dict())
        folder = self.path / _slug(dataset, model, teacher_identity(weights, norm, data.card)[:16])
        wanted = (data.card.name, model, weights, tuple(norm.mean), tuple(norm.std))
        folder = _untaken(folder, wanted, lambda card: (card.dataset, card.model, card.sha256, card.mean, card.std))
        if not (folder / "card.json").exists():
            writable_folder(folder, "teacher's")
            self._keep(folder, body, data, model, recipe=None, source=source.name, norm=norm)
        return self._load(folder)

    def check_file(self, file: Path | str, model: str, dataset: str) -> str:
        """What a spec would know a file's teacher by, if it fits the network and dataset; nothing is kept.

        Raises:
            DfkdError: as for `import_file`.
        """
        body, data, source = self._fitted(file, model, dataset)
        return teacher_identity(weights_hash(body.state_dict()), source.normalization or data.card, data.card)

    def _fitted(self, file: Path | str, model: str, dataset: str) -> tuple[nn.Module, Dataset, Source]:
        source = find_weights(file)
        data = open_dataset(dataset, self.registry, self.execution.data_root)
        body = build_model(model, data.card, self.registry)
        fit(body, source.state, model, str(file))
        if source.normalization and len(source.normalization.mean) != data.card.image_shape[0]:
            raise DfkdError(
                f"{file} normalizes {len(source.normalization.mean)} channels, {dataset} has another number"
            )
        return body, data, source

    def cards(self, report: Report = raise_it) -> Iterator[tuple[Path, TeacherCard]]:
        """Every teacher's folder and card, by name.

        Args:
            report: called with what is wrong with each card that cannot be read, which is left out; by
                default the first of it is raised.
        """
        for folder in listed(self.path) if self.path.exists() else ():
            if not folder.is_dir():
                continue
            try:
                yield folder, read_model(TeacherCard, folder / "card.json", "teacher card", _REMEDY)
            except FileNotFoundError:
                continue  # a folder of something else, or a teacher in training
            except DfkdError as error:
                report(error)

    def verify(self, folder: Path) -> tuple[TeacherCard, float]:
        """A card, and the test accuracy measured anew.

        Raises:
            DfkdError: the weights are not those of the card.
        """
        teacher = self._load(folder)
        data = open_dataset(teacher.card.dataset, self.registry, self.execution.data_root)
        return teacher.card, self._evaluator(data).measure(self._network(teacher.body, teacher.card)).top1

    def _load(self, folder: Path) -> Teacher:
        card = _read_card(folder / "card.json")
        data = open_dataset(card.dataset, self.registry, self.execution.data_root)
        body = build_model(card.model, data.card, self.registry)
        fit(body, read_weights(folder / "weights.safetensors"), card.model, str(folder))
        if weights_hash(body.state_dict()) != card.sha256:
            raise DfkdError(
                f"the weights in {folder} are not those of its card: remove the folder and make the teacher anew"
            )
        identity = card.sha256 if card.recipe is not None else teacher_identity(card.sha256, card, data.card)
        return Teacher(card, body.eval().to(self.execution.device), folder, identity)

    def _network(self, body: nn.Module, card: Normalization) -> Network:
        return Network(body, card, self.execution.precision).placed(self.execution.device)

    def _evaluator(self, data: Dataset) -> Evaluator:
        return Evaluator(data.load("test"), self.execution.device)

    def _train(self, model: str, dataset: str, recipe: TeacherRecipe, folder: Path) -> None:
        data = open_dataset(dataset, self.registry, self.execution.data_root)
        with global_stream(stream_seed(recipe.seed, "teacher/weights"), self.execution.device):
            body = build_model(model, data.card, self.registry, start=True)
        train = data.load("train")
        _check_apart(train, data.load("test"), dataset)
        title = f"teacher {model} on {dataset}"

        def tick(done: int, total: int) -> None:
            event = RunEvent(
                "progress", folder.name, title, {"phase": "teacher training", "done": done, "total": total}
            )
            self.registry.emit(event)

        self.registry.emit(RunEvent("phase", folder.name, title, {"phase": "teacher training"}))
        identity = training_identity(folder.name, self.registry, describe(self.execution, self.registry), model)
        checkpoint = Checkpoint(folder / "checkpoint.pt", identity, self.checkpoint_seconds, "training")
        training = Training(self._network(body, data.card), train, data, recipe, self.execution.device, tick)
        with arithmetic(self.execution):
            training.to_the_end(checkpoint)
        if not all(bool(torch.isfinite(tensor).all()) for tensor in body.state_dict().values()):
            checkpoint.remove()  # from there it would come to the same end
            raise DfkdError(
                f"the teacher {model} diverged on {dataset}: its weights are not finite; lower the learning rate "
                f"({recipe.lr})"
            )
        self._keep(
            folder,
            body,
            data,
            model,
            recipe=recipe,
            source="trained here",
            train=train,
            seconds=training.seconds,
        )
        checkpoint.remove()

    def _keep(
        self,
        folder: Path,
        body: nn.Module,
        data: Dataset,
        model: str,
        *,
        recipe: TeacherRecipe | None,
        source: str,
        norm: Normalization | None = None,
        train: Split | None = None,
        seconds: float | None = None,
    ) -> None:
        evaluator = self._evaluator(data)
        norm = norm or data.card
        measured = evaluator.measure(self._network(body, norm))
        card = TeacherCard(
            model=model,
            dataset=data.card.name,
            num_classes=data.card.num_classes,
            image_shape=data.card.image_shape,
            mean=norm.mean,
            std=norm.std,
            sha256=weights_hash(body.state_dict()),
            accuracy=measured.top1,
            accuracy_top5=measured.top5,
            test_split=evaluator.fingerprint,
            recipe=recipe,
            source=source,
            training_images=None if train is None else len(train),
            note=None if train is None else train.note,
            seconds=seconds,
            environment=describe(replace(self.execution, compile=False), self.registry),  # only runs are compiled
            made=datetime.now(UTC),
        )
        with replacing(folder / "weights.safetensors") as temporary:
            save_weights(body.state_dict(), temporary)
        # The card last: a folder with a card is a teacher.
        with replacing(folder / "card.json") as temporary:
            temporary.write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _check_apart(train: Split, test: Split, dataset: str) -> None:
    """Refuse a test split all of which is trained on: its accuracy would say nothing."""
    known = set(_digests(train))
    if all(digest in known for digest in _digests(test)):
        raise DfkdError(f"every test image of {dataset} is a training image, too: give it a test split of its own")


def _digests(split: Split) -> Iterator[bytes]:
    return (hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in split.images.numpy())


def _slug(*parts: str) -> str:
    return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", part).strip("_") for part in parts)


def _untaken(folder: Path, wanted: tuple[Any, ...], facts: Callable[[TeacherCard], tuple[Any, ...]]) -> Path:
    """The folder, unless the teacher in it is another one: then one beside it, whose name `wanted` decides."""
    card = folder / "card.json"
    if not card.exists() or facts(_read_card(card)) == wanted:
        return folder
    return folder.with_name(f"{folder.name}-{hashlib.sha256(repr(wanted).encode()).hexdigest()[:8]}")


def _read_card(path: Path) -> TeacherCard:
    try:
        return read_model(TeacherCard, path, "teacher card", _REMEDY)
    except FileNotFoundError as error:
        raise DfkdError(f"{path} is not there: {_REMEDY}") from error
