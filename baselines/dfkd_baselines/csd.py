"""CSD, customizing synthetic data for data-free student learning (Luo et al., arXiv 2307.04542)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dfkd_bench import Distiller, Network, Round, StageContext, StageOptions, Synthesizer, SyntheticBatch, frozen
from dfkd_bench.blocks.batchnorm import bn_loss
from dfkd_bench.blocks.best import Best
from dfkd_bench.blocks.generators import Generator, placed, reset_generator
from dfkd_bench.blocks.kd import kl_divergence
from dfkd_bench.blocks.rotation import quarter_turns
from dfkd_bench.blocks.views import crop_and_flip


class CsdOptions(StageOptions):
    """Options of `csd`; the defaults are the released main stage for CIFAR-10."""

    added = frozenset({"first_head"})

    batch_size: int = Field(200, ge=1, description="images in a round")
    warmup_batch_size: int = Field(200, ge=1, description="images in a warm-up round")
    steps: int = Field(200, ge=1, description="optimization steps in a round")
    warmup_steps: int = Field(500, ge=1, description="optimization steps in a warm-up round, without student")
    lr: float = Field(1e-3, gt=0, description="Adam's learning rate of generator and latents")
    latent_dim: int = Field(256, ge=1, description="length of a latent")
    bn: float = Field(1.0, ge=0, description="weight of the BatchNorm statistics' distance")
    oh: float = Field(1.0, ge=0, description="weight of the cross-entropy with the wanted classes")
    csd: float = Field(10.0, ge=0, description="weight of making the auxiliary head fail; off in the warm-up")
    adv: float = Field(0.0, ge=0, description="weight of the unmasked adversary, in force where csd is 0")
    # British, since the hashes of runs hold the name.
    normalise_head: bool = Field(
        True, description="released: the head's logits have unit length, so its loss is bounded (B15)"
    )
    head_lr: float = Field(0.1, gt=0, description="SGD's learning rate of the auxiliary head")
    first_head: Literal["normal", "torch"] = Field(
        "normal",
        description="the head before its first reset: N(0, 0.02) as after each; torch: PyTorch's default, as released",
    )
    reset_head: bool = Field(True, description="a fresh auxiliary head, N(0, 0.02), after each round")
    keep_momentum: bool = Field(False, description="parity: the head's momentum survives its reset (B16)")


class AuxiliaryHead(nn.Module):
    """c: features [N, d] -> logits [N, 4K] over class and quarter turn, of unit length if `normalize`."""

    def __init__(self, feature_dim: int, num_classes: int, normalize: bool) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(feature_dim, feature_dim), nn.ReLU(), nn.Linear(feature_dim, 4 * num_classes)
        )
        self.normalize = normalize

    def forward(self, features: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.layers(features)
        return F.normalize(logits, dim=1) if self.normalize else logits


def auxiliary_loss(head: nn.Module, features: Tensor, targets: Tensor, turns: Tensor) -> Tensor:
    """CE(c(f_S(rot_k x)), 4 y + k), mean over the turned images, of which four in a row belong to each target."""
    return F.cross_entropy(head(features), 4 * targets.repeat_interleave(4) + turns)


class CustomizedInversion(Synthesizer[CsdOptions]):
    """Images that the student's auxiliary head cannot tell yet: oh CE + bn L_bn - csd CE(c(f_S(rot x)), 4y + k)."""

    Options = CsdOptions
    requires = frozenset({"batchnorm"})

    def __init__(self, options: CsdOptions, context: StageContext) -> None:
        super().__init__(options, context)
        with context.seeded():
            self.generator = placed(Generator(options.latent_dim, context.card.image_shape), context.device)
            head = AuxiliaryHead(context.student.feature_dim, context.card.num_classes, options.normalise_head)
        self.head = head.to(context.device)
        context.ledger.watch(self.generator, "generator")
        if options.first_head == "normal":
            reset_generator(self.head, context.generator)
        self._new_head_optimizer()

    def _new_head_optimizer(self) -> None:
        # Fused it is one launch; on a CPU its last digits would be others.
        self.head_optimizer = torch.optim.SGD(
            self.head.parameters(),
            self.options.head_lr,
            0.9,
            weight_decay=1e-4,
            fused=self.context.device.type == "cuda",
        )

    def _reset_head(self, round: Round) -> None:
        # In the warm-up, which is a run of its own in released code, nobody teaches the head: there it may stay.
        if self.options.reset_head and not (round.warmup and self.options.first_head == "torch"):
            reset_generator(self.head, self.context.generator)
            if not self.options.keep_momentum:
                self._new_head_optimizer()

    def synthesize(self, round: Round) -> SyntheticBatch:
        """`batch_size` images with uniformly drawn, sorted target classes; the iterate with the lowest loss."""
        options, context = self.options, self.context
        shape = (options.warmup_batch_size if round.warmup else options.batch_size, options.latent_dim)
        latents = torch.randn(shape, generator=context.generator, device=context.device, requires_grad=True)
        drawn = torch.randint(context.card.num_classes, shape[:1], generator=context.generator, device=context.device)
        targets = drawn.sort().values
        reset_generator(self.generator, context.generator)
        optimizer = torch.optim.Adam([*self.generator.parameters(), latents], options.lr, (0.5, 0.999), fused=True)
        steps = options.warmup_steps if round.warmup else options.steps
        best = Best()
        self.generator.train()
        for step in range(steps):
            images = context.images_from(self.generator, latents)
            loss = self._loss(images, targets, customized=not round.warmup)
            best.update(loss, images)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            context.tick(step + 1, steps)
        self._reset_head(round)
        return SyntheticBatch(best.tensors[0].clamp(0, 1), targets)

    def _loss(self, images: Tensor, targets: Tensor, *, customized: bool) -> Tensor:
        options, context = self.options, self.context
        view = crop_and_flip(images, context.card.transform, context.generator)
        seen = context.teacher.observe(view, batchnorm=True)
        loss = options.oh * F.cross_entropy(seen.logits, targets) + options.bn * bn_loss(seen.batchnorm)
        if customized and options.csd:
            turned, turns = quarter_turns(view)
            auxiliary = auxiliary_loss(self.head, context.student.observe(turned).features, targets, turns)
            loss = loss - options.csd * auxiliary
        elif customized and options.adv:
            loss = loss - options.adv * kl_divergence(context.student(view), seen.logits)
        return loss

    def after_distill_step(self, batch: SyntheticBatch) -> None:
        """Teach the auxiliary head what the student makes of this batch; the student does not learn from it."""
        if not self.options.csd:
            return
        with frozen(self.context.student), torch.no_grad():
            turned, turns = quarter_turns(batch.images)
            features = self.context.student.observe(turned).features
        loss = auxiliary_loss(self.head, features, batch.targets, turns)
        self.head_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.head_optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Generator, head and the head's optimizer."""
        return {
            "generator": self.generator.state_dict(),
            "head": self.head.state_dict(),
            "head_optimizer": self.head_optimizer.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.generator.load_state_dict(state["generator"])
        self.head.load_state_dict(state["head"])
        self.head_optimizer.load_state_dict(state["head_optimizer"])


class CsdDistillerOptions(StageOptions):
    """Options of the distiller `csd`."""

    tau: float = Field(20.0, gt=0, description="temperature of both players' softmax")
    target_weight: float = Field(1.0, ge=0, description="weight of the cross-entropy with the images' target classes")
    feature_weight: float = Field(30.0, ge=0, description="weight of the distance of the last feature maps")


class CsdDistiller(Distiller[CsdDistillerOptions]):
    """KL_tau(s, t) + CE(s, y) + 30 MSE(a(F_S), F_T): the last stage's maps, the student's through an aligning head.

    CSD's, and the released DDA's. The other methods have neither label nor feature term: a gain over them is not the
    synthesizer's alone.
    """

    Options = CsdDistillerOptions
    capturable = True

    @classmethod
    def requires_with(cls, options: CsdDistillerOptions) -> frozenset[str]:
        """Named stages, and targets, if they have a weight."""
        return frozenset({"stages", "targets"} if options.target_weight else {"stages"})

    def __init__(self, options: CsdDistillerOptions, context: StageContext) -> None:
        super().__init__(options, context)
        self.names = (context.student.stage_names[-1], context.teacher.stage_names[-1])
        blank = torch.zeros(1, *context.card.image_shape, device=context.device)
        with frozen(context.student), torch.no_grad():
            student, teacher = self._maps(context.student, blank)[1], self._maps(context.teacher, blank, own=False)[1]
        with context.seeded():
            self.align = _align_head(student.shape[1], teacher.shape[1]).to(context.device)
        self.size = teacher.shape[-2:]

    def _maps(self, network: Network, images: Tensor, *, own: bool = True) -> tuple[Tensor, Tensor]:
        name = self.names[0 if own else 1]
        seen = network.observe(images, maps=(name,))
        return seen.logits, seen.maps[name]

    def losses(self, student: Network, teacher: Network, batch: SyntheticBatch) -> dict[str, Tensor]:
        """`kd`, `target` and `feature`."""
        with torch.no_grad():
            wanted, wanted_map = self._maps(teacher, batch.images, own=False)
        logits, own_map = self._maps(student, batch.images)
        if own_map.shape[-2:] != self.size:
            own_map = F.adaptive_avg_pool2d(own_map, (self.size[0], self.size[1]))
        options = self.options
        return {
            "kd": kl_divergence(logits, wanted, options.tau),
            "target": options.target_weight * F.cross_entropy(logits, batch.targets),
            "feature": options.feature_weight * F.mse_loss(self.align(own_map), wanted_map),
        }

    def parameters(self) -> Iterator[nn.Parameter]:
        """The aligning head's."""
        return self.align.parameters()

    def state_dict(self) -> dict[str, Any]:
        """The aligning head."""
        return {"align": self.align.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.align.load_state_dict(state["align"])


def _align_head(student: int, teacher: int) -> nn.Sequential:
    """1x1 to twice the teacher's channels, 3x3, 1x1 to the teacher's; always in training mode."""
    return nn.Sequential(
        nn.Conv2d(student, 2 * teacher, 1, bias=False),
        nn.BatchNorm2d(2 * teacher),
        nn.ReLU(),
        nn.Conv2d(2 * teacher, 2 * teacher, 3, padding=1, bias=False),
        nn.BatchNorm2d(2 * teacher),
        nn.ReLU(),
        nn.Conv2d(2 * teacher, teacher, 1, bias=False),
    )
