"""FastDFKD (Fang et al., arXiv 2112.06253): a meta-learned generator from which a few steps lead to new images."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
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
    flops_per_image,
)
from dfkd_bench.blocks.batchnorm import BnAverage
from dfkd_bench.blocks.best import Best
from dfkd_bench.blocks.generators import Generator, placed
from dfkd_bench.blocks.kd import agreement_adversary
from dfkd_bench.blocks.restart import restart
from dfkd_bench.blocks.views import crop_and_flip


class FastOptions(StageOptions):
    """Options of `fast`; the defaults are the released Fast-10 script for WRN pairs."""

    batch_size: int = Field(256, ge=1, description="images in a round")
    steps: int = Field(10, ge=1, description="inner steps k in a round")
    lr: float = Field(2e-3, gt=0, description="the inner Adam's learning rate of the generator")
    latent_lr: float = Field(0.01, gt=0, description="the inner Adam's learning rate of the latents")
    latent_dim: int = Field(256, ge=1, description="length of a latent")
    meta: Literal["fomaml", "reptile", "none"] = Field(
        "fomaml", description="fomaml: sum of the inner gradients; reptile: the way gone; none: one generator all along"
    )
    bn: float = Field(10.0, ge=0, description="weight of the BatchNorm statistics' distance, against their average")
    bn_momentum: float = Field(0.9, ge=0, lt=1, description="how slowly that average over rounds moves")
    oh: float = Field(0.4, ge=0, description="weight of the cross-entropy with the wanted classes")
    adv: float = Field(1.1, ge=0, description="weight of the adversary, where student and teacher agree")
    adv_from: int | None = Field(
        None, ge=0, description="first round with the adversary; none: after the warm-up; released: one sooner (B11)"
    )
    reset_round: int | None = Field(
        120,
        ge=1,
        description="round after the warm-up, counted from 1, at whose start the first layers are reset, once",
    )


def reset_first_layers(generator: Generator, stream: torch.Generator) -> None:
    """The released one-time reset: the linear layer's and the first BatchNorm's weights ~ N(0, 0.02), biases 0.

    The BatchNorm scale's mean is 0 there, not 1.
    """
    linear, norm = generator.l1[0], generator.conv_blocks[0]
    with torch.no_grad():
        for layer in (linear, norm):
            layer.weight.normal_(0.0, 0.02, generator=stream)  # type: ignore[operator]
            layer.bias.zero_()  # type: ignore[operator]


class FastInversion(Synthesizer[FastOptions]):
    """Inner steps on a copy of the meta-generator and fresh latents; then one meta-step."""

    Options = FastOptions
    requires = frozenset({"batchnorm"})

    @classmethod
    def projection(cls, options: FastOptions, load: Workload) -> Projection:
        """Each inner step is a pass of generator and teacher, and of the student where there is an adversary."""
        rounds, a_round = load.warmup_rounds + load.main_rounds, options.steps * options.batch_size
        against = load.main_rounds if options.adv_from is None else max(rounds - options.adv_from, 0)
        against = against * a_round if options.adv else 0
        shape = load.card.image_shape
        return Projection(
            rounds * options.batch_size,
            (
                Passes("teacher", rounds * a_round, rounds * a_round),
                Passes("student", against, against),
                Passes(
                    "generator",
                    rounds * a_round,
                    rounds * a_round,
                    trained=True,
                    flops=lambda: flops_per_image(
                        lambda: Generator(options.latent_dim, shape), (1, options.latent_dim)
                    ),
                ),
            ),
        )

    def __init__(self, options: FastOptions, context: StageContext) -> None:
        super().__init__(options, context)
        with context.seeded():
            self.meta = placed(Generator(options.latent_dim, context.card.image_shape), context.device)
        self.inner = copy.deepcopy(self.meta) if options.meta != "none" else self.meta
        context.ledger.watch(self.inner, "generator")
        # Times k: the released scripts' outer learning rate.
        self.meta_optimizer = torch.optim.Adam(
            self.meta.parameters(), options.lr * options.steps, (0.5, 0.999), fused=True
        )
        self.latents = context.static("latents", (options.batch_size, options.latent_dim)).requires_grad_()
        self.targets = context.static("targets", (options.batch_size,), torch.int64)
        self.inner_optimizer = torch.optim.Adam(
            [
                {"params": list(self.inner.parameters()), "lr": options.lr},
                {"params": [self.latents], "lr": options.latent_lr},
            ],
            betas=(0.5, 0.999),
            fused=True,
            capturable=True,
        )
        self.average, self.best = BnAverage(options.bn_momentum), Best()
        self.adversarial = False
        self.main_rounds = 0

    def synthesize(self, round: Round) -> SyntheticBatch:
        """`batch_size` images with uniformly drawn target classes; the iterate with the lowest loss."""
        options, context = self.options, self.context
        with torch.no_grad():
            self.latents.normal_(generator=context.generator)
        self.targets.random_(context.card.num_classes, generator=context.generator)
        self._reset_once(round)
        if self.inner is not self.meta:
            self.inner.load_state_dict(self.meta.state_dict())
        if options.meta == "fomaml":
            zero_gradients(self.meta)
        restart(self.inner_optimizer)
        self.best.restart()
        self.inner.train()
        late = not round.warmup if options.adv_from is None else round.index >= options.adv_from
        self.adversarial = options.adv > 0 and late
        step = context.step(self._inner, (self.adversarial, self.average.known))
        for _ in range(options.steps):
            step()
        self._meta_step()
        self.average.update()
        return SyntheticBatch(self.best.tensors[0].clamp(0, 1), self.targets.clone())

    def _inner(self) -> None:
        images = self.context.images_from(self.inner, self.latents)
        loss = self._loss(images, self.targets)
        self.best.update(loss, images)
        self.inner_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if self.options.meta == "fomaml":
            add_gradients(self.meta, self.inner)
        self.inner_optimizer.step()

    def _loss(self, images: Tensor, targets: Tensor) -> Tensor:
        options, context = self.options, self.context
        view = crop_and_flip(images, context.card.transform, context.generator)
        seen = context.teacher.observe(view, batchnorm=True)
        loss = options.bn * self.average.loss(seen.batchnorm) + options.oh * F.cross_entropy(seen.logits, targets)
        if self.adversarial:
            loss = loss + options.adv * agreement_adversary(context.student(view), seen.logits)
        return loss

    def _meta_step(self) -> None:
        if self.options.meta == "none":
            return
        if self.options.meta == "reptile":
            # The released factor; Adam makes nearly nothing of it.
            for outer, inner in zip(self.meta.parameters(), self.inner.parameters(), strict=True):
                outer.grad = 67 * (outer.detach() - inner.detach())
        self.meta_optimizer.step()

    def _reset_once(self, round: Round) -> None:
        if round.warmup:
            return
        self.main_rounds += 1
        if self.main_rounds == self.options.reset_round:
            reset_first_layers(self.meta, self.context.generator)

    def state_dict(self) -> dict[str, Any]:
        """The meta-generator, its optimizer, the statistics' average and the count of rounds."""
        return {
            "meta": self.meta.state_dict(),
            "meta_optimizer": self.meta_optimizer.state_dict(),
            "average": self.average.state_dict(),
            "main_rounds": self.main_rounds,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.meta.load_state_dict(state["meta"])
        self.meta_optimizer.load_state_dict(state["meta_optimizer"])
        self.average.load_state_dict(state["average"], self.context.device)
        self.main_rounds = state["main_rounds"]


def zero_gradients(outer: nn.Module) -> None:
    """Gradients of zero, in the places of earlier ones if there are any."""
    for parameter in outer.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.zero_()


def add_gradients(outer: nn.Module, inner: nn.Module) -> None:
    """Add the inner weights' gradients to the outer ones': first-order MAML summed over all inner steps."""
    sums, more = ([each.grad for each in module.parameters() if each.grad is not None] for module in (outer, inner))
    torch._foreach_add_(sums, more)
