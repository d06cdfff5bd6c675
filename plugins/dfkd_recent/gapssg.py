"""GapSSG, images by the gap of teacher and student (Wang et al., IEEE TPAMI 46(9), 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench import Round, StageContext, StageOptions, Synthesizer, SyntheticBatch
from dfkd_bench.blocks.batchnorm import bn_loss
from dfkd_bench.blocks.best import Best
from dfkd_bench.blocks.generators import Generator, placed, reset_generator
from dfkd_bench.blocks.views import crop_and_flip


def probability_gap(student: Tensor, teacher: Tensor) -> Tensor:
    """g = mean_i max_k |p_S - p_T|, in [0, 1]; a constant, no gradient passes."""
    p_student, p_teacher = (F.softmax(logits.detach(), dim=1) for logits in (student, teacher))
    return (p_student - p_teacher).abs().amax(dim=1).mean()


def gap_loss(student: Tensor, teacher: Tensor, targets: Tensor, common: float) -> Tensor:
    """(1 - e^-g) (CE((t - s) / 2, y) + common CE(t + s, y)).

    The first term wants the class in what the teacher knows and the student does not, the second in what both know.
    """
    ahead = F.cross_entropy((teacher - student) / 2, targets)
    together = F.cross_entropy(teacher + student, targets)
    return (1 - torch.exp(-probability_gap(student, teacher))) * (ahead + common * together)


class GapOptions(StageOptions):
    """Options of `gapssg`; the defaults are the released script."""

    batch_size: int = Field(256, ge=1, description="images in a round")
    steps: int = Field(200, ge=1, description="optimization steps in a round")
    lr: float = Field(2e-3, gt=0, description="Adam's learning rate of generator and latents")
    latent_dim: int = Field(256, ge=1, description="length of a latent")
    bn: float = Field(1.0, ge=0, description="weight of the BatchNorm statistics' distance")
    gap: float = Field(
        0.5,
        ge=0,
        description="weight of the class in the gap of teacher and student, and in their sum",
        json_schema_extra={"role": "adversary"},
    )
    common: float = Field(0.2, ge=0, description="weight, within `gap`, of what teacher and student know together")


class GapInversion(Synthesizer[GapOptions]):
    """Each round inverts a fresh generator and its latents for bn L_bn + gap L_gap, with L_gap that of `gap_loss`.

    No adversary beside the gap and no contrast; the batch with the lowest loss is kept.
    """

    Options = GapOptions

    @classmethod
    def requires_with(cls, options: GapOptions) -> frozenset[str]:
        """BatchNorm layers, if their statistics have a weight."""
        return frozenset({"batchnorm"}) if options.bn else frozenset()

    def __init__(self, options: GapOptions, context: StageContext) -> None:
        super().__init__(options, context)
        with context.seeded():
            self.generator = placed(Generator(options.latent_dim, context.card.image_shape), context.device)
        context.ledger.watch(self.generator, "generator")

    def synthesize(self, round: Round) -> SyntheticBatch:
        """`batch_size` images with uniformly drawn, sorted target classes."""
        options, context = self.options, self.context
        generator, device = context.generator, context.device
        shape = (options.batch_size, options.latent_dim)
        latents = torch.randn(shape, generator=generator, device=device, requires_grad=True)
        targets = torch.randint(context.card.num_classes, shape[:1], generator=generator, device=device).sort().values
        reset_generator(self.generator, generator)
        optimizer = torch.optim.Adam([*self.generator.parameters(), latents], options.lr, (0.5, 0.999), fused=True)
        best = Best()
        self.generator.train()
        for step in range(options.steps):
            images = context.images_from(self.generator, latents)
            loss = self._loss(images, targets)
            best.update(loss, images)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            context.tick(step + 1, options.steps)
        return SyntheticBatch(best.tensors[0].clamp(0, 1), targets)

    def _loss(self, images: Tensor, targets: Tensor) -> Tensor:
        options, context = self.options, self.context
        view = crop_and_flip(images, context.card.transform, context.generator)
        seen = context.teacher.observe(view, batchnorm=options.bn > 0)
        loss = options.gap * gap_loss(context.student(view), seen.logits, targets, options.common)
        return loss + options.bn * bn_loss(seen.batchnorm) if options.bn else loss

    def state_dict(self) -> dict[str, Any]:
        """The generator: its weights are drawn anew each round, its running statistics are not."""
        return {"generator": self.generator.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.generator.load_state_dict(state["generator"])
