"""Stages, each broken in one way that this field's released code, or any code, is broken in; and a whole one."""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench import (
    Augmenter,
    Distiller,
    Filter,
    Network,
    Round,
    StageContext,
    StageOptions,
    Synthesizer,
    SyntheticBatch,
)
from dfkd_bench.blocks.batchnorm import bn_loss
from dfkd_bench.blocks.kd import kl_divergence


class PixelOptions(StageOptions):
    steps: int = Field(2, ge=1, description="optimization steps")
    lr: float = Field(0.1, gt=0, description="learning rate")
    adv: float = Field(1.0, ge=0, description="weight of the adversary")


class Whole(Synthesizer[PixelOptions]):
    """Pixels that match the BatchNorm statistics and on which student and teacher differ; remembers its last batch."""

    Options = PixelOptions

    def __init__(self, options: PixelOptions, context: StageContext) -> None:
        super().__init__(options, context)
        self.last = torch.rand(5, *context.card.image_shape, generator=context.generator)

    def student_logits(self, images: Tensor) -> Tensor:
        return self.context.student(images)

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl_divergence(student, teacher)

    def start(self) -> Tensor:
        noise = torch.rand(self.last.shape, generator=self.context.generator)
        return 0.5 * self.last + 0.5 * noise

    def finish(self, pixels: Tensor) -> Tensor:
        return pixels.clamp(0, 1)

    def targets(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            return self.context.teacher(images).argmax(dim=1)

    def synthesize(self, round: Round) -> SyntheticBatch:
        pixels = self.start().requires_grad_(True)
        for _ in range(self.options.steps):
            seen = self.context.teacher.observe(pixels, batchnorm=True)
            loss = bn_loss(seen.batchnorm)
            if self.options.adv:
                loss = loss - self.options.adv * self.distance(self.student_logits(pixels), seen.logits)
            (gradient,) = torch.autograd.grad(loss, pixels)
            pixels = (pixels - self.options.lr * gradient).detach().requires_grad_(True)
        self.last = self.finish(pixels.detach())
        return SyntheticBatch(self.last, self.targets(self.last))

    def state_dict(self) -> dict[str, Any]:
        return {"last": self.last}

    def load_state_dict(self, state: Any) -> None:
        self.last = state["last"]


class TeacherAsStudent(Whole):
    """ZSKT, DFAD and DFQ in one released repository: the teacher is handed over as their student (B06)."""

    def student_logits(self, images: Tensor) -> Tensor:
        return self.context.teacher(images)


class DetachedAdversary(Whole):
    """The adversary's number is right, and a constant to the images."""

    def distance(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl_divergence(student, teacher).detach()


class ReadAndThrownAway(Whole):
    """An option that is read and thrown away."""

    class Options(PixelOptions):
        tau: float = Field(20.0, gt=0, description="temperature")


class TeacherInTrainingMode(Whole):
    """The teacher's BatchNorm statistics drift with every batch."""

    def synthesize(self, round: Round) -> SyntheticBatch:
        self.context.teacher.train()
        batch = super().synthesize(round)
        self.context.teacher.eval()
        return batch


class ForgetsItsState(Whole):
    """A killed run goes on from somewhere else."""

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        pass


class DrawsFromElsewhere(Whole):
    """torch's global stream, which whatever ran before has moved."""

    def start(self) -> Tensor:
        return torch.rand(self.last.shape)


class ShowsOldImages(Whole):
    """A pool on the disk that the last run left, as in the released CMI: its images reach the next run."""

    def synthesize(self, round: Round) -> SyntheticBatch:
        self.context.cache.mkdir(parents=True, exist_ok=True)
        pool = self.context.cache / f"{self.context.card.num_classes}-{self.context.card.image_shape}.pt"
        if pool.exists() and round.index == 0:
            self.last = torch.load(pool)
        batch = super().synthesize(round)
        torch.save(batch.images, pool)
        return batch


class TenClassesOnly(Whole):
    """CIFAR-10's classes are written into it."""

    def targets(self, images: Tensor) -> Tensor:
        return torch.arange(len(images)) % 3


class OutOfRange(Whole):
    """Normalized pixels where images are wanted."""

    def finish(self, pixels: Tensor) -> Tensor:
        return 3 * pixels


class StudentOfItself(Distiller[StageOptions]):
    """The loss compares the teacher with the teacher; it is zero, and so is what the student learns."""

    def losses(self, student: Network, teacher: Network, batch: SyntheticBatch) -> dict[str, Tensor]:
        return {"kd": kl_divergence(teacher(batch.images), teacher(batch.images))}


class SourceLess(Augmenter[StageOptions]):
    """Augmented images that do not say where they come from."""

    def augment(self, batch: SyntheticBatch) -> SyntheticBatch:
        return SyntheticBatch(batch.images.flip(3), batch.targets)


class KeepsNumbers(Filter[StageOptions]):
    """Similarities where yes or no is wanted."""

    def keep(self, augmented: SyntheticBatch, source: SyntheticBatch) -> Tensor:
        return F.cosine_similarity(augmented.images.flatten(1), augmented.images.flatten(1))


#: Stage, the check that must tell, and what it says.
BROKEN = {
    TeacherAsStudent: ("the student is not the teacher", r"'adv'\) but never looks at the student: is the teacher in"),
    DetachedAdversary: ("the adversary is alive", "another student makes no difference: its part of the loss is dead"),
    ReadAndThrownAway: ("each option changes something", "nothing depends on 'tau', whatever value it is given"),
    TeacherInTrainingMode: ("teacher and student untouched", "it changed the teacher's first.1.running_mean"),
    ForgetsItsState: ("state round-trips mid-run", "after its state was stored before step 2 it continues differently"),
    DrawsFromElsewhere: ("same seed, same images", "draws from elsewhere than its stream"),
    ShowsOldImages: ("a fresh run sees nothing old", "something of the earlier run is left"),
    TenClassesOnly: ("any classes, size and channels", r"with 2 classes of 3x8x8 images: targets are not in 0\.\.1"),
    OutOfRange: ("images finite and in [0, 1]", r"images are not in \[0, 1\]"),
    StudentOfItself: ("the student is not the teacher", "its losses never look at the student: is the teacher in"),
    SourceLess: ("images finite and in [0, 1]", "augmented images do not name their sources"),
    KeepsNumbers: ("images finite and in [0, 1]", r"answers torch.float32 \[52\], not bool \[52\]"),
}
