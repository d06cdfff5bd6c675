"""TA-DFKD, teacher as a lenient expert: no class prior, and selection among the student's batches (AAAI 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from dfkd_bench import Filter, Round, StageContext, StageOptions, Synthesizer, SyntheticBatch
from dfkd_bench.blocks.batchnorm import bn_loss
from dfkd_bench.blocks.generators import Generator, placed
from dfkd_bench.blocks.image_priors import l2_norm, total_variation
from dfkd_bench.blocks.kd import js_divergence, released_js
from dfkd_bench.blocks.views import crop_and_flip
from dfkd_dda.confidence import fit_mixture, low_posterior


class LenientOptions(StageOptions):
    """Options of `ta-dfkd`; the defaults are the released settings."""

    batch_size: int = Field(1024, ge=1, description="images in a generator step")
    steps: int = Field(1, ge=1, description="generator steps in a round")
    lr: float = Field(1e-3, gt=0, description="Adam's learning rate")
    latent_dim: int = Field(1000, ge=1, description="length of a latent")
    bn_eps: float = Field(0.8, gt=0, description="epsilon of the generator's two inner BatchNorm layers")
    bn: float = Field(10.0, ge=0, description="weight of the BatchNorm statistics' distance")
    adv: float = Field(1.0, ge=0, description="weight of 1 - J(s, t): student and teacher are to differ")
    js: Literal["released", "true"] = Field(
        "released", description="J has its KL arguments swapped and clamped (B02), or is the JS divergence"
    )
    tv: float = Field(1.5e-5, ge=0, description="weight of the total variation, of normalized images")
    l2: float = Field(6e-3, ge=0, description="weight of the batch's L2 norm, of normalized images")
    select: Literal["mixture", "none"] = Field(
        "mixture", description="bn and adv look at: the images that the confident one of two groups holds, or at all"
    )
    posterior: float = Field(0.5, ge=0, lt=1, description="least probability of that group")


def lenient(logits: Tensor, posterior: float) -> Tensor:
    """Whom the low one of two normal components has, bool [N]: of l_i = -log max_k p_T(k|x_i), scaled to [0, 1]."""
    losses = -logits.detach().double().log_softmax(dim=1).amax(dim=1)
    spread = losses.max() - losses.min()
    if float(spread) < 1e-12:  # all alike: there is nothing to choose
        return torch.ones_like(losses, dtype=torch.bool)
    scaled = (losses - losses.min()) / spread
    return low_posterior(scaled, fit_mixture(scaled)) > posterior


def competition(student: Tensor, teacher: Tensor, js: str) -> Tensor:
    """1 - clamp(J(s, t), 0, 1), J at temperature 3 averaged over images and classes."""
    divergence = released_js if js == "released" else js_divergence
    return 1 - (divergence(student, teacher) / student.shape[1]).clamp(0, 1)


class LenientExpert(Synthesizer[LenientOptions]):
    """L_G = tv TV + bn L_bn + l2 ||x|| + adv (1 - J) on a persistent generator; no class is ever asked for.

    L_bn and J look at the selected images, augmented; TV and the norm at all. The filter `ta-dfkd` selects among the
    student's batches.
    """

    Options = LenientOptions
    stream = True
    # To name them would take a pass of the teacher for every batch of the student's.
    gives_targets = False

    @classmethod
    def requires_with(cls, options: LenientOptions) -> frozenset[str]:
        """BatchNorm layers, if their statistics have a weight."""
        return frozenset({"batchnorm"}) if options.bn else frozenset()

    def __init__(self, options: LenientOptions, context: StageContext) -> None:
        super().__init__(options, context)
        with context.seeded():
            generator = Generator(options.latent_dim, context.card.image_shape)
        generator.conv_blocks.insert(1, nn.LeakyReLU(0.2, inplace=True))
        for layer in generator.conv_blocks[2:]:
            if isinstance(layer, nn.BatchNorm2d):
                layer.eps = options.bn_eps
        self.generator = placed(generator, context.device)
        context.ledger.watch(self.generator, "generator")
        self.optimizer = torch.optim.Adam(self.generator.parameters(), options.lr, fused=True)

    def synthesize(self, round: Round) -> SyntheticBatch:
        """`steps` generator steps; the last images, which nobody keeps, with the teacher's guesses."""
        options, context = self.options, self.context
        self.generator.train()
        for _ in range(options.steps):
            images = self._make(options.batch_size)
            with torch.no_grad():
                guessed = context.teacher(images)
            chosen = lenient(guessed, options.posterior) if options.select == "mixture" else slice(None)
            loss = self._loss(images, images[chosen])
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self.optimizer.step()
        return SyntheticBatch(images.detach(), guessed.argmax(dim=1))

    def _make(self, count: int) -> Tensor:
        shape, device = (count, self.options.latent_dim), self.context.device
        latents = torch.randn(shape, generator=self.context.generator, device=device)
        return self.context.images_from(self.generator, latents)

    def _loss(self, images: Tensor, chosen: Tensor) -> Tensor:
        options, context = self.options, self.context
        view = self._view(chosen)
        seen = context.teacher.observe(view, batchnorm=options.bn > 0)
        normalized = (images - context.teacher.mean) / context.teacher.std
        loss = options.tv * total_variation(normalized, "l2_norm") + options.l2 * l2_norm(normalized)
        if options.bn:
            loss = loss + options.bn * bn_loss(seen.batchnorm)
        if options.adv:
            loss = loss + options.adv * competition(context.student(view), seen.logits, options.js)
        return loss

    def _view(self, images: Tensor) -> Tensor:
        """Padded, cropped and mirrored, all by the same draw, as released: images are the channels of one."""
        one = images.flatten(0, 1)[None]
        return crop_and_flip(one, self.context.card.transform, self.context.generator)[0].view_as(images)

    @torch.no_grad()
    def sample(self, count: int) -> SyntheticBatch:
        """`count` images, one view for all. They name no classes: the targets are zeros."""
        self.generator.train()
        images = self._view(self._make(count))
        return SyntheticBatch(images, torch.zeros(count, dtype=torch.int64, device=images.device))

    def state_dict(self) -> dict[str, Any]:
        """The generator and its optimizer."""
        return {"generator": self.generator.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.generator.load_state_dict(state["generator"])
        self.optimizer.load_state_dict(state["optimizer"])


class SelectionOptions(StageOptions):
    """Options of the filter `ta-dfkd`."""

    posterior: float = Field(0.5, ge=0, lt=1, description="least probability of the confident group")


class LenientSelection(Filter[SelectionOptions]):
    """Of a batch, the student learns from the images that the confident one of two groups holds.

    The teacher looks at the images as the student is to see them; released code looks before they are augmented.
    """

    Options = SelectionOptions

    def select(self, batch: SyntheticBatch) -> Tensor:
        """True where the posterior of the group with the higher confidence exceeds the bound."""
        return lenient(self.context.teacher(batch.images), self.options.posterior)
