"""Generators that learn beside the student and never keep an image: DAFL, ZSKT, DFAD and DFQ, by their weights.

DAFL (Chen et al., arXiv 1904.01186), ZSKT (Micaelli & Storkey, arXiv 1905.09768), DFAD (Fang et al., arXiv
1912.11006), DFQ (Choi et al., arXiv 2005.04136), as the CMI lineage ports them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench import Distiller, Network, Observation, Round, StageContext, StageOptions, Synthesizer, SyntheticBatch
from dfkd_bench.blocks.batchnorm import bn_loss
from dfkd_bench.blocks.generators import Generator, placed
from dfkd_bench.blocks.kd import kl_divergence


def activation_loss(features: Tensor) -> Tensor:
    """L_act = -mean |f_T| over batch and features (DAFL)."""
    return -features.abs().mean()


def balance_loss(logits: Tensor) -> Tensor:
    """L_bal = sum_c p_c log p_c with p the batch mean of softmax(t): minus the entropy of the classes (DAFL).

    In nats. A class that underflows counts nothing (released code has 0 log 0 = NaN there, B25).
    """
    mean = F.softmax(logits, dim=1).mean(dim=0)
    return (mean * mean.clamp(min=1e-12).log()).sum()


class GenerativeOptions(StageOptions):
    """Options of `generative`."""

    batch_size: int = Field(256, ge=1, description="images in a generator step")
    steps: int = Field(1, ge=1, description="generator steps in a round")
    lr: float = Field(1e-3, gt=0, description="Adam's learning rate")
    latent_dim: int = Field(256, ge=1, description="length of a latent")
    width: int = Field(
        256, ge=1, description="channels of the generator's first layer: 256 the large one, 128 the small"
    )
    bn: float = Field(0.0, ge=0, description="weight of the BatchNorm statistics' distance")
    oh: float = Field(0.0, ge=0, description="weight of the cross-entropy with the teacher's own guess")
    adv: float = Field(0.0, ge=0, description="weight of the adversary: student and teacher are to differ")
    adv_kind: Literal["kl", "l1"] = Field(
        "kl", description="what the adversary raises: KL, or the logits' mean distance"
    )
    adv_tau: float = Field(
        1.0, gt=0, description="temperature of the adversary's KL; CSD's and DDA's code has 20 (B05)"
    )
    bal: float = Field(0.0, ge=0, description="weight of the classes' balance")
    act: float = Field(0.0, ge=0, description="weight of the features' activation")
    sample_mode: Literal["eval", "train"] = Field("eval", description="the generator's mode when the student is fed")

    @model_validator(mode="after")
    def _aims_at_something(self) -> GenerativeOptions:
        if not any((self.bn, self.oh, self.adv, self.bal, self.act)):
            raise ValueError("at least one of bn, oh, adv, bal and act needs a weight")
        return self


class Generative(Synthesizer[GenerativeOptions]):
    """L_G = bn L_bn + oh CE(t, argmax t) - adv C(s, t) + bal L_bal + act L_act on G(z), no augmentation, no bank."""

    Options = GenerativeOptions
    stream = True
    # To name them would take a pass of the teacher for every batch of the student's.
    gives_targets = False

    @classmethod
    def requires_with(cls, options: GenerativeOptions) -> frozenset[str]:
        """BatchNorm layers, if their statistics have a weight."""
        return frozenset({"batchnorm"}) if options.bn else frozenset()

    def __init__(self, options: GenerativeOptions, context: StageContext) -> None:
        super().__init__(options, context)
        with context.seeded():
            generator = Generator(options.latent_dim, context.card.image_shape, options.width)
        self.generator = placed(generator, context.device)
        context.ledger.watch(self.generator, "generator")
        self.optimizer = torch.optim.Adam(
            self.generator.parameters(), options.lr, (0.5, 0.999), fused=True, capturable=True
        )

    def synthesize(self, round: Round) -> SyntheticBatch:
        """`steps` generator steps; the last images, which nobody keeps."""
        self.generator.train()
        step = self.context.step(self._inner)
        for _ in range(self.options.steps):
            images, targets = step()
        return SyntheticBatch(images.clone(), targets.clone())

    def _inner(self) -> tuple[Tensor, Tensor]:
        images = self._make(self.options.batch_size)
        seen = self.context.teacher.observe(images, batchnorm=self.options.bn > 0)
        loss = self._loss(images, seen)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        return images.detach(), seen.logits.detach().argmax(dim=1)

    def _make(self, count: int) -> Tensor:
        shape, device = (count, self.options.latent_dim), self.context.device
        latents = torch.randn(shape, generator=self.context.generator, device=device)
        return self.context.images_from(self.generator, latents)

    def _loss(self, images: Tensor, seen: Observation) -> Tensor:
        options, teacher = self.options, seen.logits
        loss = torch.zeros((), device=images.device)
        if options.bn:
            loss = loss + options.bn * bn_loss(seen.batchnorm)
        if options.oh:
            loss = loss + options.oh * F.cross_entropy(teacher, teacher.detach().argmax(dim=1))
        if options.adv:
            student = self.context.student(images)
            apart = (
                kl_divergence(student, teacher, options.adv_tau) if options.adv_kind == "kl" else l1(student, teacher)
            )
            loss = loss - options.adv * apart
        if options.bal:
            loss = loss + options.bal * balance_loss(teacher)
        if options.act:
            loss = loss + options.act * activation_loss(seen.features)
        return loss

    @torch.no_grad()
    def sample(self, count: int) -> SyntheticBatch:
        """Fresh images. They name no classes: the targets are zeros, and no distiller that looks at them is let in."""
        self.generator.train(self.options.sample_mode == "train")
        images = self._make(count)
        return SyntheticBatch(images, torch.zeros(count, dtype=torch.int64, device=images.device))

    def state_dict(self) -> dict[str, Any]:
        """The generator and its optimizer."""
        return {"generator": self.generator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])


def l1(student: Tensor, teacher: Tensor) -> Tensor:
    """mean |s - t| over batch and classes (DFAD)."""
    return (student - teacher).abs().mean()


class L1Distiller(Distiller[StageOptions]):
    """DFAD's student loss: mean |s - t|."""

    capturable = True

    def losses(self, student: Network, teacher: Network, batch: SyntheticBatch) -> dict[str, Tensor]:
        """`l1`."""
        with torch.no_grad():
            wanted = teacher(batch.images)
        return {"l1": l1(student(batch.images), wanted)}
