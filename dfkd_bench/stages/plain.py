"""The plain stages that recipes fall back on, and the natural controls of diffusion augmentation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field, JsonValue
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench.blocks.kd import kl_divergence
from dfkd_bench.blocks.views import random_resized_crop
from dfkd_bench.stages.bank import SyntheticBatch
from dfkd_bench.stages.base import Augmenter, Distiller, Filter, StageContext
from dfkd_bench.stages.network import Network
from dfkd_bench.stages.options import StageOptions
from dfkd_bench.stages.passes import Passes, Projection, Workload
from dfkd_bench.stages.scores import ScoreHistory


class NoAugmentation(Augmenter[StageOptions]):
    """No further images."""

    @classmethod
    def projection(cls, options: StageOptions, load: Workload) -> Projection:
        """Nothing."""
        return Projection()

    def augment(self, batch: SyntheticBatch) -> SyntheticBatch:
        """An empty batch."""
        nothing = batch.targets[:0]
        return SyntheticBatch(batch.images[:0], nothing, nothing)


class ClassicOptions(StageOptions):
    """Options of `classic`."""

    variants: int = Field(1, ge=1, description="further images of each image")
    smallest_area: float = Field(0.5, gt=0, le=1, description="least part of the image's area that a crop keeps")
    # British, since the hashes of runs hold the name.
    colour: float = Field(0.2, ge=0, description="largest relative change of brightness and contrast")


class ClassicTransforms(Augmenter[ClassicOptions]):
    """Random resized crops, flips where the card has them, brightness and contrast: the control of diffusion."""

    Options = ClassicOptions

    @classmethod
    def projection(cls, options: ClassicOptions, load: Workload) -> Projection:
        """No network's pass."""
        return Projection(load.sources * options.variants)

    @torch.no_grad()
    def augment(self, batch: SyntheticBatch) -> SyntheticBatch:
        """`variants` images of each, in [0, 1]."""
        generator, device = self.context.generator, self.context.device
        source = torch.arange(len(batch), device=device).repeat_interleave(self.options.variants)
        images = random_resized_crop(
            batch.images[source],
            generator,
            scale=(self.options.smallest_area, 1.0),
            flip=self.context.card.transform.flip,
        )
        draws = torch.rand(2, len(source), 1, 1, 1, generator=generator, device=device)
        brightness, contrast = 1 + self.options.colour * (2 * draws - 1)
        mean = images.mean(dim=(1, 2, 3), keepdim=True)
        images = ((images - mean) * contrast + mean) * brightness
        return SyntheticBatch(images.clamp(0, 1), batch.targets[source], source)


class KeepAll(Filter[StageOptions]):
    """Every augmented image stays."""

    @classmethod
    def projection(cls, options: StageOptions, load: Workload) -> Projection:
        """Nothing."""
        return Projection()

    def keep(self, augmented: SyntheticBatch, source: SyntheticBatch) -> Tensor:
        """All true."""
        return torch.ones_like(augmented.targets, dtype=torch.bool)


class TeacherAgreement(Filter[StageOptions]):
    """An augmented image stays if the teacher gives it its source's target class."""

    def __init__(self, options: StageOptions, context: StageContext) -> None:
        super().__init__(options, context)
        self._history = ScoreHistory()

    @classmethod
    def projection(cls, options: StageOptions, load: Workload) -> Projection:
        """The teacher looks at each augmented image."""
        return Projection(passes=(Passes("teacher", load.variants),))

    def keep(self, augmented: SyntheticBatch, source: SyntheticBatch) -> Tensor:
        """True where the teacher's first guess is the target."""
        logits: Tensor = self.context.teacher(augmented.images)
        keep = logits.argmax(dim=1) == augmented.targets
        self._history.add(logits.softmax(dim=1).gather(1, augmented.targets[:, None])[:, 0], keep)
        return keep

    def report(self) -> dict[str, JsonValue]:
        """The histograms of the probability that the teacher gives the target."""
        return {"score": "the teacher's probability of the target", **self._history.report()}

    def state_dict(self) -> dict[str, Any]:
        """The histograms so far."""
        return self._history.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""
        self._history.load_state_dict(state)


class DistillationOptions(StageOptions):
    """Options of `kd`."""

    tau: float = Field(20.0, gt=0, description="temperature of both players' softmax")
    target_weight: float = Field(0.0, ge=0, description="weight of the cross-entropy with the images' target classes")


class Distillation(Distiller[DistillationOptions]):
    """KL_tau(s, t) (Hinton et al., arXiv 1503.02531), and on demand the cross-entropy with the targets."""

    Options = DistillationOptions
    capturable = True

    @classmethod
    def requires_with(cls, options: DistillationOptions) -> frozenset[str]:
        """Targets, if they have a weight."""
        return frozenset({"targets"}) if options.target_weight else frozenset()

    @classmethod
    def projection(cls, options: DistillationOptions, load: Workload) -> Projection:
        """Teacher and student look at each image, the student learns from it."""
        count = load.student_images
        return Projection(passes=(Passes("teacher", count), Passes("student", count, count, trained=True)))

    def losses(self, student: Network, teacher: Network, batch: SyntheticBatch) -> dict[str, Tensor]:
        """`kd`, and `target` if it has a weight; soft labels, where there are some, take the targets' place."""
        with torch.no_grad():
            wanted = teacher(batch.images)
        logits = student(batch.images)
        losses = {"kd": kl_divergence(logits, wanted, self.options.tau)}
        if self.options.target_weight:
            wanted_classes = batch.targets if batch.soft is None else batch.soft
            losses["target"] = self.options.target_weight * F.cross_entropy(logits, wanted_classes)
        return losses

    def reference(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """`kd` as tau^2 / N sum_i sum_k p_ik (ln p_ik - ln q_ik)."""
        p, q = (F.softmax(logits / self.options.tau, dim=1) for logits in (teacher, student))
        return {"kd": self.options.tau**2 * (p * (p.log() - q.log())).sum(dim=1).mean()}
