"""Teachers: trained on first use or read from a file, kept with a card, found again by hash, verified."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock
from pydantic import BaseModel, ConfigDict
from torch import nn

from dfkd_bench.card import TeacherRecipe
from dfkd_bench.datasets.access import Dataset, open_dataset
from dfkd_bench.datasets.split import Split
from dfkd_bench.environment import Execution, describe
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
from dfkd_bench.teachers.weights import Source, find_weights, fit, read_weights, save_weights, weights_hash

__all__ = ["Teacher", "TeacherCard", "TeacherStore"]


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


@dataclass(frozen=True)
class Teacher:
    """A card, the network with its weights in evaluation mode, and the folder where both are kept."""

    card: TeacherCard
    body: nn.Module
    folder: Path


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
            return any(card.sha256 == ref.sha256 for _, card in self.cards(lambda error: None))
        assert ref.recipe is not None
        return (self._folder(model, dataset, ref.recipe) / "card.json").exists()

    def _folder(self, model: str, dataset: str, recipe: TeacherRecipe) -> Path:
        return self.path / _slug(dataset, model, content_hash(recipe))

    def obtain(self, ref: TeacherRef, model: str, dataset: str) -> Teacher:
        """The teacher that a spec names; one of a recipe is trained if it is not there yet.

        Raises:
            DfkdError: weights of that hash are not in the store, or data or folder are missing.
        """
        if ref.sha256 is not None:
            odd: list[DfkdError] = []
            found = next((folder for folder, card in self.cards(odd.append) if card.sha256 == ref.sha256), None)
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
        folder = self.path / _slug(dataset, model, weights_hash(body.state_dict())[:16])
        if not (folder / "card.json").exists():
            writable_folder(folder, "teacher's")
            self._keep(folder, body, data, model, recipe=None, source=source.name, norm=source.normalization)
        return self._load(folder)

    def check_file(self, file: Path | str, model: str, dataset: str) -> str:
        """The hash of a file's weights, if they fit the network and dataset; nothing is kept.

        Raises:
            DfkdError: as for `import_file`.
        """
        return weights_hash(self._fitted(file, model, dataset)[0].state_dict())

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
        return Teacher(card, body.eval().to(self.execution.device), folder)

    def _network(self, body: nn.Module, card: Normalization) -> Network:
        return Network(body, card, self.execution.precision).placed(self.execution.device)

    def _evaluator(self, data: Dataset) -> Evaluator:
        return Evaluator(data.load("test"), self.execution.device)

    def _train(self, model: str, dataset: str, recipe: TeacherRecipe, folder: Path) -> None:
        data = open_dataset(dataset, self.registry, self.execution.data_root)
        with global_stream(stream_seed(recipe.seed, "teacher/weights"), self.execution.device):
            body = build_model(model, data.card, self.registry, start=True)
        train = data.load("train")
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
        training.to_the_end(checkpoint)
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
            environment=describe(self.execution, self.registry),
            made=datetime.now(UTC),
        )
        with replacing(folder / "weights.safetensors") as temporary:
            save_weights(body.state_dict(), temporary)
        # The card last: a folder with a card is a teacher.
        with replacing(folder / "card.json") as temporary:
            temporary.write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def _slug(*parts: str) -> str:
    return "-".join(re.sub(r"[^A-Za-z0-9_.]+", "_", part).strip("_") for part in parts)


def _read_card(path: Path) -> TeacherCard:
    try:
        return read_model(TeacherCard, path, "teacher card", _REMEDY)
    except FileNotFoundError as error:
        raise DfkdError(f"{path} is not there: {_REMEDY}") from error
