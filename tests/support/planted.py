"""Right stages, and the bugs planted into them: which check catches each, or why none can.

The list was found by writing plugins as a stranger and breaking them one by one.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dfkd_bench import Augmenter, Distiller, Filter, Round, StageOptions, Synthesizer, SyntheticBatch
from dfkd_bench.blocks.batchnorm import bn_loss
from dfkd_bench.blocks.kd import kl_divergence

IMAGES = "images finite and in [0, 1]"
UNTOUCHED = "teacher and student untouched"
MOVES = "what it optimizes moves"
TARGETS = "more steps meet the targets"
WEIGHTS = "its weights pull the right way"
LEARNS = "the student learns"
REFERENCE = "losses equal their reference"
SOURCES = "sources and targets are true"
NEAR = "near variants stay"
ORDER = "answers go with their images"


class Options(StageOptions):
    steps: int = Field(20, ge=1, description="optimization steps")
    lr: float = Field(0.02, gt=0, description="Adam's learning rate")
    oh: float = Field(1.0, ge=0, description="weight of the cross-entropy with the wanted classes")
    bn: float = Field(0.05, ge=0, description="weight of the BatchNorm loss")
    adv: float = Field(0.1, ge=0, description="weight of the adversary")


class Right(Synthesizer[Options]):
    """A generator and its latents, optimized anew in each round."""

    Options = Options

    def synthesize(self, round: Round) -> SyntheticBatch:
        context, options = self.context, self.options
        with context.seeded():
            generator = nn.Linear(16, int(torch.tensor(context.card.image_shape).prod()))
            latents = torch.randn(13, 16).requires_grad_()
            targets = torch.randint(context.card.num_classes, (13,))
        optimizer = torch.optim.Adam(self.optimized(generator, latents), options.lr)
        for _ in range(options.steps):
            images = self.squash(generator(latents)).view(-1, *context.card.image_shape)
            optimizer.zero_grad()
            self.loss(self.shown(images), targets).backward()
            optimizer.step()
        return self.returned(images.detach(), targets)

    def optimized(self, generator: nn.Module, latents: Tensor) -> list[Tensor]:
        return [*generator.parameters(), latents]

    def squash(self, pixels: Tensor) -> Tensor:
        return pixels.sigmoid()

    def shown(self, images: Tensor) -> Tensor:
        return images

    def loss(self, images: Tensor, targets: Tensor) -> Tensor:
        options, seen = self.options, self.context.teacher.observe(images, batchnorm=True)
        loss = options.oh * F.cross_entropy(seen.logits, targets) + options.bn * self.bn(seen.batchnorm)
        return loss - options.adv * self.adversary(self.context.student(images), seen.logits)

    def bn(self, layers: Any) -> Tensor:
        return bn_loss(layers)

    def adversary(self, student: Tensor, teacher: Tensor) -> Tensor:
        return kl_divergence(student, teacher)

    def returned(self, images: Tensor, targets: Tensor) -> SyntheticBatch:
        return SyntheticBatch(images, targets)


class AdversaryFlipped(Right):
    def adversary(self, student, teacher):
        return -kl_divergence(student, teacher)


class AdversaryTiny(Right):
    def adversary(self, student, teacher):
        return 1e-6 * kl_divergence(student, teacher)


class AdversaryReversed(Right):
    def adversary(self, student, teacher):
        return kl_divergence(teacher, student)


class Negated(Right):
    def loss(self, images, targets):
        return -super().loss(images, targets)


class TargetsPermuted(Right):
    def returned(self, images, targets):
        return SyntheticBatch(images, targets.roll(1))


class MinusOneToOne(Right):
    """Made in [-1, 1], shown as they are, clamped at the end."""

    def squash(self, pixels):
        return pixels.tanh()

    def returned(self, images, targets):
        return SyntheticBatch(images.clamp(0, 1), targets)


class ClampedEarly(MinusOneToOne):
    """Made in [-1, 1] and clamped before anybody looks."""

    def shown(self, images):
        return images.clamp(0, 1)


class NormalizedTwice(Right):
    def shown(self, images):
        return self.context.teacher.normalize(images)


class GeneratorNeverOptimized(Right):
    def optimized(self, generator, latents):
        return [latents]


class LatentsNeverOptimized(Right):
    def optimized(self, generator, latents):
        return list(generator.parameters())


class NeverStepped(Right):
    """Both are forgotten: something else is stepped."""

    def optimized(self, generator, latents):
        return [torch.zeros(1, requires_grad=True)]


class AllAlike(Right):
    def returned(self, images, targets):
        return SyntheticBatch(images[:1].expand_as(images).contiguous(), targets)


class ThreeBlackImages(Synthesizer[StageOptions]):
    def synthesize(self, round):
        return SyntheticBatch(torch.zeros(3, *self.context.card.image_shape), torch.zeros(3, dtype=torch.int64))


class BnDetached(Right):
    def bn(self, layers):
        return super().bn(layers).detach()


class GapOptions(StageOptions):
    steps: int = Field(20, ge=1, description="optimization steps")
    lr: float = Field(0.02, gt=0, description="Adam's learning rate")
    gap: float = Field(1.0, ge=0, description="weight of the gap's cross-entropies")


class Gap(Right):
    """GapSSG's loss: labels for what the teacher knows and the student does not."""

    Options = GapOptions  # type: ignore[assignment]
    sign = 1.0

    def loss(self, images, targets):
        teacher, student = self.context.teacher(images), self.context.student(images)
        alone = F.cross_entropy(self.sign * (teacher - student) / 2, targets)
        return self.options.gap * (alone + 0.2 * F.cross_entropy(teacher + student, targets))


class GapFlipped(Gap):
    sign = -1.0


class Teach(Distiller[StageOptions]):
    """KL at temperature 4, with its closed form."""

    tau = 4.0

    def losses(self, student, teacher, batch):
        with torch.no_grad():
            wanted = teacher(self.for_teacher(batch.images))
        return {"kd": self.distance(student(batch.images), wanted)}

    def for_teacher(self, images):
        return images

    def distance(self, student, teacher):
        return kl_divergence(student, teacher, self.tau)

    def reference(self, student, teacher):
        p, q = (logits.div(self.tau).softmax(dim=1) for logits in (teacher, student))
        return {"kd": self.tau**2 * (p * (p / q).log()).sum(dim=1).mean()}


class DistanceFlipped(Teach):
    def distance(self, student, teacher):
        return -super().distance(student, teacher)


class DistanceReversed(Teach):
    def distance(self, student, teacher):
        return kl_divergence(teacher, student, self.tau)


class NoTauSquared(Teach):
    def distance(self, student, teacher):
        return super().distance(student, teacher) / self.tau**2


class MeanOverClasses(Teach):
    def distance(self, student, teacher):
        return super().distance(student, teacher) / student.shape[1]


class SoftmaxOverTheBatch(Teach):
    def distance(self, student, teacher):
        p, q = (logits.div(self.tau).log_softmax(dim=0) for logits in (teacher, student))
        return F.kl_div(q, p, reduction="batchmean", log_target=True) * self.tau**2


class OnlyTheStudentSoftened(Teach):
    def distance(self, student, teacher):
        q = student.div(self.tau).log_softmax(dim=1)
        return F.kl_div(q, teacher.softmax(dim=1), reduction="batchmean") * self.tau**2


class ShuffledForTheTeacher(Teach):
    def for_teacher(self, images):
        return images.flip(0)


class StudentInEvaluationMode(Teach):
    def losses(self, student, teacher, batch):
        student.eval()
        return super().losses(student, teacher, batch)


class SharesItsReference(DistanceReversed):
    """Declares what it computes: the kit has nothing else to compare with."""

    def reference(self, student, teacher):
        return {"kd": self.distance(student, teacher)}


class Near(Filter[StageOptions]):
    """Keeps what the teacher sees nearly as it sees the source."""

    def keep(self, augmented, source):
        own = self.context.teacher(augmented.images).softmax(dim=1)
        other = self.context.teacher(source.images).softmax(dim=1)[self.which(augmented)]
        return self.decide((own - other).abs().amax(dim=1))

    def which(self, augmented):
        return augmented.source

    def decide(self, apart):
        return apart < 0.1


class Inverted(Near):
    def decide(self, apart):
        return apart >= 0.1


class WrongSource(Near):
    def which(self, augmented):
        return torch.arange(len(augmented)) % (int(augmented.source.max()) + 1)


class KeepsNothing(Near):
    def decide(self, apart):
        return apart < 0


class Mirror(Augmenter[StageOptions]):
    """Two of each, mirrored and brighter."""

    def augment(self, batch):
        source = torch.arange(len(batch)).repeat_interleave(2)
        images = batch.images[source].flip(3)
        return SyntheticBatch((1.1 * images).clamp(0, 1), self.targets(batch, source), self.sources(source))

    def targets(self, batch, source):
        return batch.targets[source]

    def sources(self, source):
        return source


class SourcesAllZero(Mirror):
    def targets(self, batch, source):
        return batch.targets[:1].expand_as(source).contiguous()

    def sources(self, source):
        return torch.zeros_like(source)


class OtherTargets(Mirror):
    def targets(self, batch, source):
        return batch.targets[source].roll(1)


class ChangesItsInput(Mirror):
    def augment(self, batch):
        batch.images.mul_(0.5)
        return super().augment(batch)


class Planted(NamedTuple):
    """A stage with a bug; the check that catches it and a part of what it says, or why none can."""

    stage: type[Any]
    check: str | None
    says: str


RIGHT = (Right, Gap, Teach, Near, Mirror)

PLANTED = (
    Planted(AdversaryFlipped, WEIGHTS, "'adv' moves .* the wrong way"),
    Planted(AdversaryTiny, WEIGHTS, "'adv' leaves .* where it is"),
    Planted(GapFlipped, TARGETS, "after 30 steps the teacher's cross-entropy"),
    Planted(Negated, TARGETS, "a sign is flipped"),
    Planted(TargetsPermuted, TARGETS, "the targets are not the images'"),
    Planted(MinusOneToOne, IMAGES, "of the pixels that it shows a network lie outside"),
    Planted(ClampedEarly, IMAGES, "of the pixels that it clamps to .* lie outside"),
    Planted(NormalizedTwice, IMAGES, "a network takes images in .* and normalizes them itself"),
    Planted(GeneratorNeverOptimized, MOVES, r"a tensor of shape \[192, 16\] asks for gradients"),
    Planted(LatentsNeverOptimized, MOVES, r"a tensor of shape \[13, 16\] asks for gradients"),
    Planted(NeverStepped, TARGETS, "the steps are lost"),
    Planted(AllAlike, IMAGES, "all 13 images that synthesize returns are the same"),
    Planted(ThreeBlackImages, IMAGES, "all 3 images that synthesize returns are black"),
    Planted(BnDetached, WEIGHTS, "'bn' leaves the distance of its images' BatchNorm statistics where it is"),
    Planted(AdversaryReversed, None, "either direction of the KL raises the disagreement that the kit measures"),
    Planted(DistanceFlipped, LEARNS, "a sign is flipped"),
    Planted(DistanceReversed, REFERENCE, "its loss 'kd' is"),
    Planted(NoTauSquared, REFERENCE, "its loss 'kd' is"),
    Planted(MeanOverClasses, REFERENCE, "its loss 'kd' is"),
    Planted(SoftmaxOverTheBatch, LEARNS, "a softmax is missing or taken over the wrong dimension"),
    Planted(OnlyTheStudentSoftened, LEARNS, "a softmax is missing"),
    Planted(ShuffledForTheTeacher, LEARNS, "the two see different images"),
    Planted(StudentInEvaluationMode, UNTOUCHED, "it puts the student into evaluation mode"),
    Planted(SharesItsReference, None, "without a reference of its own, a student that nears the teacher is right"),
    Planted(Inverted, NEAR, "is it inverted"),
    Planted(WrongSource, ORDER, "does it compare an image with another's source"),
    Planted(KeepsNothing, NEAR, "it keeps nothing"),
    Planted(SourcesAllZero, SOURCES, "the sources are wrong"),
    Planted(OtherTargets, SOURCES, "do not have the targets of the sources"),
    Planted(ChangesItsInput, UNTOUCHED, "augment changed the images of the batch that it was given, in place"),
)
