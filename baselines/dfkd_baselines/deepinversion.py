"""DeepInversion and Adaptive DeepInversion (Yin et al., arXiv 1912.08795): pixels optimized under the teacher."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench import (
    Passes,
    Projection,
    Round,
    StageContext,
    StageOptions,
    Synthesizer,
    SyntheticBatch,
    Workload,
)
from dfkd_bench.blocks.batchnorm import bn_loss
from dfkd_bench.blocks.best import Best
from dfkd_bench.blocks.image_priors import l2_norm, total_variation
from dfkd_bench.blocks.kd import js_divergence, released_js
from dfkd_bench.blocks.restart import restart
from dfkd_bench.blocks.views import jitter_and_flip


class DeepInversionOptions(StageOptions):
    """Options of `deepinversion`; the defaults are the CMI lineage's script for CIFAR-10."""

    batch_size: int = Field(256, ge=1, description="images in a round")
    steps: int = Field(1000, ge=1, description="optimization steps in a round")
    lr: float = Field(0.1, gt=0, description="Adam's learning rate, in normalized pixels")
    betas: tuple[float, float] = Field((0.5, 0.99), description="Adam's betas")
    bn: float = Field(10.0, ge=0, description="weight of the BatchNorm statistics' distance")
    oh: float = Field(1.0, ge=0, description="weight of the cross-entropy with the wanted classes")
    adv: float = Field(
        1.0,
        ge=0,
        description="weight of the competition with the student, off in the warm-up; 0 is plain DeepInversion",
    )
    tv: float = Field(1e-3, ge=0, description="weight of the total variation; FastDFKD's port has 0 (B04)")
    l2: float = Field(0.0, ge=0, description="weight of the batch's L2 norm")
    tv_kind: Literal["l1_mean", "l2_norm"] = Field(
        "l1_mean", description="l1_mean: the CMI lineage; l2_norm: first code"
    )
    js: Literal["released", "true"] = Field(
        "released",
        description="competition: released has its KL arguments swapped and clamped (B02); true is the JS divergence",
    )
    select: Literal["last", "best"] = Field(
        "last", description="which iterate is kept: released code means the best but keeps the last (B01)"
    )
    first_bn_weight: float = Field(1.0, ge=0, description="how often the first BatchNorm layer counts")
    student_bn: float = Field(
        0.0,
        ge=0,
        description="weight of the student's BN distance, subtracted where it competes; `bn` multiplies it, too; "
        "FastDFKD's port has 0.001 (B04)",
    )
    jitter: float = Field(0.125, ge=0, lt=1, description="largest circular shift, as a part of the image's side")


class DeepInversion(Synthesizer[DeepInversionOptions]):
    """x* = argmin bn L_bn + oh CE(T(x), y) + adv L_js + tv TV(x) + l2 ||x||, from Gaussian noise.

    Pixels are optimized in normalized space and clamped to what [0, 1] allows; nothing outlives a round.
    """

    Options = DeepInversionOptions
    requires = frozenset({"batchnorm"})

    def __init__(self, options: DeepInversionOptions, context: StageContext) -> None:
        super().__init__(options, context)
        shape = (options.batch_size, *context.card.image_shape)
        self.pixels = context.static("pixels", shape).requires_grad_()
        self.targets = context.static("targets", shape[:1], torch.int64)
        self.optimizer = torch.optim.Adam([self.pixels], options.lr, options.betas, fused=True, capturable=True)
        self.best, self.adversarial = Best(), False

    @classmethod
    def projection(cls, options: DeepInversionOptions, load: Workload) -> Projection:
        """Each step is a pass of the teacher, and of the student where it competes."""
        a_round = options.steps * options.batch_size
        rounds = load.warmup_rounds + load.main_rounds
        against = load.main_rounds * a_round if options.adv else 0
        passes = Passes("teacher", rounds * a_round, rounds * a_round), Passes("student", against, against)
        return Projection(rounds * options.batch_size, passes)

    def synthesize(self, round: Round) -> SyntheticBatch:
        """`batch_size` images with uniformly drawn, sorted target classes.

        During the warm-up, before the student has learned anything, there is no competition.
        """
        options, context = self.options, self.context
        with torch.no_grad():
            self.pixels.normal_(generator=context.generator)
        self.targets.random_(context.card.num_classes, generator=context.generator)
        self.targets.copy_(self.targets.sort().values)
        restart(self.optimizer)
        self.best.restart()
        self.adversarial = options.adv > 0 and not round.warmup
        step = context.step(self._inner, self.adversarial)
        for done in range(options.steps):
            step()
            context.tick(done + 1, options.steps)
        chosen = self.best.tensors[0] if options.select == "best" else self.pixels.detach()
        return SyntheticBatch((chosen * context.teacher.std + context.teacher.mean).clamp(0, 1), self.targets.clone())

    def _inner(self) -> None:
        mean, std = self.context.teacher.mean, self.context.teacher.std
        loss = self._loss(self.pixels, self.targets)
        if self.options.select == "best":
            self.best.update(loss, self.pixels)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.pixels.copy_(torch.clamp(self.pixels, -mean / std, (1 - mean) / std))

    def _loss(self, pixels: Tensor, targets: Tensor) -> Tensor:
        options, context = self.options, self.context
        shift = int(context.card.image_shape[1] * options.jitter)
        moved = jitter_and_flip(pixels, shift, context.card.transform.flip, context.generator)
        # Not cut to [0, 1] here: the gradient is to reach pixels that lie outside.
        images = moved * context.teacher.std + context.teacher.mean
        seen = context.teacher.observe(images, batchnorm=True)
        loss = options.bn * bn_loss(seen.batchnorm, options.first_bn_weight) + options.oh * F.cross_entropy(
            seen.logits, targets
        )
        if options.tv:
            loss = loss + options.tv * total_variation(pixels, options.tv_kind)
        if options.l2:
            loss = loss + options.l2 * l2_norm(pixels)
        if self.adversarial:
            student = context.student.observe(images, batchnorm=options.student_bn > 0)
            divergence = released_js if options.js == "released" else js_divergence
            loss = loss - options.adv * divergence(student.logits, seen.logits)
            if options.student_bn:
                loss = loss - options.bn * options.student_bn * bn_loss(student.batchnorm)
        return loss
