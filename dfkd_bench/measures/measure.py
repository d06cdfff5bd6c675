"""What a run's images are like, in its teacher's eyes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import load_file
from torch import Tensor

from dfkd_bench.datasets.access import open_dataset
from dfkd_bench.errors import DfkdError
from dfkd_bench.measures.feature_space import timm_features
from dfkd_bench.measures.statistics import (
    Coverage,
    coverage,
    frechet_distance,
    kernel_distance,
    mean_pairwise_cosine,
    vendi_score,
)
from dfkd_bench.models.build import build_model
from dfkd_bench.results.records import Record
from dfkd_bench.results.scan import STUDENT_FILE
from dfkd_bench.runs.kept import KeptBank, read_bank
from dfkd_bench.stages.network import Network
from dfkd_bench.workbench import Workbench

__all__ = ["Measures", "RealMeasures", "Subject", "class_balance", "look", "measure", "open_run"]

_BATCH = 500


class RealMeasures(BaseModel):
    """Evaluator only: these look at the real test images, which no method may."""

    model_config = ConfigDict(extra="forbid")

    real_images: int
    fid: float = Field(description="Frechet distance of the features")
    kid: float = Field(description="kernel distance of the features")
    precision: float
    recall: float
    density: float
    coverage: float


class Measures(BaseModel):
    """Of a set of synthetic images."""

    model_config = ConfigDict(extra="forbid")

    part: str = Field(description="all of the bank, what was synthesized, or what was augmented")
    images: int = Field(description="images that were looked at")
    feature_space: str = Field(description="teacher (penultimate features), or the folder of a timm network")
    mean_cosine: float = Field(description="mean cosine of all pairs; lower is more diverse")
    vendi: float = Field(description="Vendi score: effective number of different images")
    class_balance: float = Field(description="entropy of the targets' distribution by that of equal shares, 0 to 1")
    confidence: float = Field(description="mean of the teacher's largest probability")
    entropy: float = Field(description="mean entropy of the teacher's answers, nats")
    target_agreement: float = Field(description="percent to which the teacher gives their target")
    disagreement: float | None = Field(
        description="percent on which the run's student and teacher differ; null if no student was kept"
    )
    evaluator_only: RealMeasures | None = Field(None, description="null unless asked for")


@dataclass(frozen=True)
class Subject:
    """A run whose images were kept, with its teacher, and its student if that was kept, both in float32."""

    record: Record
    bank: KeptBank
    teacher: Network
    student: Network | None


def open_run(run: Path, bench: Workbench) -> Subject:
    """A run by its folder.

    Raises:
        DfkdError: there is no record, no images were kept, or the teacher is not in the store.
    """
    from dfkd_bench.results.records import read_record

    record = read_record(run / "record.json")
    if record is None:
        raise DfkdError(f"there is no record in {run}: give the folder of a run, such as results/0c0bec815a8a61f6")
    bank, spec, device = read_bank(run), record.spec, bench.execution.device
    teacher = bench.store.obtain(spec.teacher, spec.pair.teacher, spec.dataset)
    if record.teacher is not None and teacher.card.sha256 != record.teacher.sha256:
        raise DfkdError(f"the teacher in {bench.store.path} is not the one of {run}: name its folder with --teachers")
    student = None
    if (run / STUDENT_FILE).is_file():
        body = build_model(spec.pair.student, bench.card(spec.dataset), bench.registry)
        body.load_state_dict(load_file(run / STUDENT_FILE))
        student = Network(body, teacher.card).placed(device).eval()
    return Subject(record, bank, Network(teacher.body, teacher.card).placed(device).eval(), student)


def measure(
    subject: Subject,
    bench: Workbench,
    *,
    part: str = "all",
    most: int = 5000,
    real: bool = False,
    features: Path | None = None,
) -> Measures:
    """The measures of a run's images.

    Args:
        subject: the run.
        bench: where the dataset is, if `real`.
        part: `all`, `synthesized` or `augmented`.
        most: images to use, evenly spaced: distances of all pairs are taken.
        real: also compare with the real test images.
        features: folder of a timm network in whose features images are compared; None: in the teacher's.

    Raises:
        DfkdError: there are fewer than ten such images, or no such network.
    """
    bank = subject.bank
    chosen = {"all": torch.ones_like(bank.augmented), "synthesized": ~bank.augmented, "augmented": bank.augmented}[part]
    index = _spread(chosen.nonzero()[:, 0], most)
    if len(index) < 10:
        raise DfkdError(f"there are {len(index)} images of the part '{part}': measures need ten or more")
    targets = bank.targets[index]
    seen, logits = look(subject.teacher, bank.images[index])
    embed = _by_teacher(subject) if features is None else timm_features(features, bench.execution.device)
    made = seen if features is None else embed(bank.images[index])
    probabilities = logits.softmax(dim=1)
    guesses, disagreement = logits.argmax(dim=1), None
    if subject.student is not None:
        disagreement = _percent(look(subject.student, bank.images[index])[1].argmax(dim=1) != guesses)
    return Measures(
        part=part,
        images=len(index),
        feature_space="teacher" if features is None else str(features),
        mean_cosine=mean_pairwise_cosine(made),
        vendi=vendi_score(made),
        class_balance=class_balance(targets, logits.shape[1]),
        confidence=float(probabilities.amax(dim=1).mean()),
        entropy=float(-(probabilities * logits.log_softmax(dim=1)).sum(dim=1).mean()),
        target_agreement=_percent(guesses == targets),
        disagreement=disagreement,
        evaluator_only=_against_real(subject, bench, made, most, embed) if real else None,
    )


def class_balance(targets: Tensor, classes: int) -> float:
    """The entropy of the classes' shares by its largest value: 1 for equal shares, 0 for one class alone."""
    shares = torch.bincount(targets, minlength=classes).double() / len(targets)
    return float(torch.special.entr(shares).sum() / torch.tensor(float(classes)).log())


def _by_teacher(subject: Subject) -> Callable[[Tensor], Tensor]:
    return lambda images: look(subject.teacher, images)[0]


def _against_real(
    subject: Subject, bench: Workbench, made: Tensor, most: int, embed: Callable[[Tensor], Tensor]
) -> RealMeasures:
    split = open_dataset(subject.record.spec.dataset, bench.registry, bench.execution.data_root).load("test")
    real = embed(split.images[_spread(torch.arange(len(split)), most)])
    near: Coverage = coverage(real, made)
    return RealMeasures(
        real_images=len(real),
        fid=frechet_distance(real, made),
        kid=kernel_distance(real, made),
        precision=near.precision,
        recall=near.recall,
        density=near.density,
        coverage=near.coverage,
    )


@torch.inference_mode()
def look(network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """Features [N, D] and logits [N, K] on the CPU, of bytes."""
    device = next(network.parameters()).device
    seen = [network.observe(batch.to(device).float() / 255) for batch in images.split(_BATCH)]
    features = torch.cat([each.features.flatten(1).cpu() for each in seen])
    return features, torch.cat([each.logits.cpu() for each in seen])


def _spread(index: Tensor, most: int) -> Tensor:
    if len(index) <= most:
        return index
    return index[torch.linspace(0, len(index) - 1, most).long()]


def _percent(hits: Tensor) -> float:
    return round(100 * float(hits.double().mean()), 4)
