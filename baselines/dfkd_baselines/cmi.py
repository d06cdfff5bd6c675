"""Contrastive model inversion (Fang et al., arXiv 2105.08584)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dfkd_bench import (
    DatasetCard,
    NetworkFacts,
    Observation,
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
from dfkd_bench.blocks.batchnorm import bn_loss
from dfkd_bench.blocks.best import Best
from dfkd_bench.blocks.contrastive import InstanceBank, ProjectionHead, contrastive_loss, instance_features
from dfkd_bench.blocks.generators import Generator, placed, reset_generator
from dfkd_bench.blocks.kd import agreement_adversary, kl_divergence
from dfkd_bench.blocks.restart import restart
from dfkd_bench.blocks.views import crop_and_flip, random_resized_crop


class CmiOptions(StageOptions):
    """Options of `cmi`; the defaults are the released script that starts from nothing, on CIFAR-10."""

    added = frozenset({"restart_contrast"})

    batch_size: int = Field(256, ge=1, description="images in a round")
    steps: int = Field(200, ge=1, description="optimization steps in a round")
    warmup_steps: int | None = Field(
        None, ge=1, description="optimization steps in a warm-up round; none: as in the others"
    )
    lr: float = Field(1e-3, gt=0, description="Adam's learning rate of generator, latents and projection head")
    latent_dim: int = Field(256, ge=1, description="length of a latent")
    bn: float = Field(1.0, ge=0, description="weight of the BatchNorm statistics' distance")
    oh: float = Field(1.0, ge=0, description="weight of the cross-entropy with the wanted classes")
    adv: float = Field(
        0.5, ge=0, description="weight of the adversary; off in the warm-up, where there is no student yet"
    )
    adv_kind: Literal["agreement", "all"] = Field(
        "agreement", description="agreement: only where teacher and student agree"
    )
    cr: float = Field(0.8, ge=0, description="weight of the contrast between images")
    cr_tau: float = Field(0.1, gt=0, description="temperature of the contrast")
    instance_bank: int = Field(40_960, ge=1, description="images whose features the contrast remembers")
    negatives: int = Field(4096, ge=0, description="remembered images that each step draws")
    contrast_of: Literal["batchnorm", "stage-inputs"] = Field(
        "batchnorm", description="maps that tell images apart: every BatchNorm's input; stage-inputs as released (B07)"
    )
    restart_contrast: bool = Field(
        False,
        description="after the warm-up the contrast forgets its images and its head, as released: there the warm-up is "
        "a run of its own",
    )
    head_dim: int = Field(256, ge=1, description="length of the projected features")
    local_area: float = Field(0.25, gt=0, le=1, description="least part of the area that a local view shows")
    reset: bool = Field(True, description="start each round from fresh generator weights")


#: Above this many bytes the contrast says before a run what it takes. With the published WRN and VGG teachers it stays
#: below, with a resnet34's 8,512 BatchNorm channels it takes more than three times as many.
MUCH = 2**30


def contrast_bytes(dim: int, options: CmiOptions) -> int:
    """What the contrast of `dim` features keeps in float32: a full bank; the head, its gradient, Adam's two moments."""
    head = dim * dim + dim + dim * options.head_dim + options.head_dim
    return 4 * (2 * options.instance_bank * dim + 4 * head)


class ContrastiveInversion(Synthesizer[CmiOptions]):
    """Each round inverts a generator and its latents: bn L_bn + oh CE(T(x), y) + adv L_adv + cr L_cr.

    All but the contrast look at the global view (pad, crop, flip); the contrast sets each image's local view apart
    from the views of all others. The batch with the lowest loss is kept.
    """

    Options = CmiOptions

    @classmethod
    def requires_with(cls, options: CmiOptions) -> frozenset[str]:
        """BatchNorm layers, and named stages for the stages' inputs."""
        return frozenset({"batchnorm"} | ({"teacher-stages"} if options.contrast_of == "stage-inputs" else set()))

    @classmethod
    def warn_with(cls, options: CmiOptions, teacher: NetworkFacts, card: DatasetCard) -> str | None:
        """What the contrast takes, where it is more than a GiB."""
        by_stages = options.contrast_of == "stage-inputs"
        dim = sum(teacher.stage_inputs or ()) if by_stages else sum(teacher.batchnorm)
        total = contrast_bytes(dim, options)
        if not options.cr or total <= MUCH:
            return None
        less = "" if by_stages or teacher.stage_inputs is None else "synthesizer.contrast_of=stage-inputs or "
        return (
            f"the contrast between images takes up to {total / 2**30:.1f} GiB, for a bank of {options.instance_bank:,} "
            f"images and a head on {dim:,} features; {less}a smaller synthesizer.instance_bank takes less"
        )

    @classmethod
    def projection(cls, options: CmiOptions, load: Workload) -> Projection:
        """The teacher sees each image once, and a local view of it if there is a contrast."""
        per_round = options.steps * options.batch_size
        warmup = load.warmup_rounds * (options.warmup_steps or options.steps) * options.batch_size
        main = load.main_rounds * per_round
        views = (warmup + main) * (2 if options.cr else 1)
        against = main if options.adv else 0
        shape = load.card.image_shape
        return Projection(
            (load.warmup_rounds + load.main_rounds) * options.batch_size,
            (
                Passes("teacher", views, views),
                Passes("student", against, against),
                Passes(
                    "generator",
                    warmup + main,
                    warmup + main,
                    trained=True,
                    flops=lambda: flops_per_image(
                        lambda: Generator(options.latent_dim, shape), (1, options.latent_dim)
                    ),
                ),
            ),
        )

    def __init__(self, options: CmiOptions, context: StageContext) -> None:
        super().__init__(options, context)
        # Found by looking: a stage's module does not say how many channels it takes.
        with torch.no_grad():
            self._dim = self._observe(torch.zeros(1, *context.card.image_shape, device=context.device))[1].shape[1]
        with context.seeded():
            self.generator = placed(Generator(options.latent_dim, context.card.image_shape), context.device)
            self.head = ProjectionHead(self._dim, options.head_dim).to(context.device)
        context.ledger.watch(self.generator, "generator")
        self.latents = context.static("latents", (options.batch_size, options.latent_dim)).requires_grad_()
        self.targets = context.static("targets", (options.batch_size,), torch.int64)
        self.optimizer = torch.optim.Adam(
            [*self.generator.parameters(), self.latents], options.lr, (0.5, 0.999), fused=True, capturable=True
        )
        self.head_optimizer = torch.optim.Adam(self.head.parameters(), options.lr, fused=True, capturable=True)
        self.bank = InstanceBank(options.instance_bank, self._dim, context.device)
        self.best, self.adversarial = Best(), False
        self.warming_up = False

    def _restart_contrast(self) -> None:
        with self.context.seeded():
            for layer in self.head.layers:
                if isinstance(layer, nn.Linear):
                    layer.reset_parameters()
        restart(self.head_optimizer)
        self.bank = InstanceBank(self.options.instance_bank, self._dim, self.context.device)

    def synthesize(self, round: Round) -> SyntheticBatch:
        """`batch_size` images with uniformly drawn, sorted target classes."""
        options, context = self.options, self.context
        generator = context.generator
        if options.restart_contrast and self.warming_up and not round.warmup:
            self._restart_contrast()
        self.warming_up = round.warmup
        with torch.no_grad():
            self.latents.normal_(generator=generator)
        self.targets.random_(context.card.num_classes, generator=generator)
        self.targets.copy_(self.targets.sort().values)
        if options.reset:
            reset_generator(self.generator, generator)
        restart(self.optimizer)
        self.best.restart()
        steps = (options.warmup_steps or options.steps) if round.warmup else options.steps
        self.generator.train()
        self.adversarial = options.adv > 0 and not round.warmup
        # A bank that still fills offers more images in each round.
        step = context.step(self._inner, (self.adversarial, self.bank.place))
        for done in range(steps):
            step()
            context.tick(done + 1, steps)
        images, local, glob = self.best.tensors
        if options.cr:
            self.bank.add(local, glob)
        return SyntheticBatch(images.clamp(0, 1), self.targets.clone())

    def _inner(self) -> None:
        images = self.context.images_from(self.generator, self.latents)
        loss, local, glob = self._loss(images, self.targets)
        self.best.update(loss, images, local, glob)
        self.optimizer.zero_grad(set_to_none=True)
        self.head_optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        if self.options.cr:
            self.head_optimizer.step()

    def _loss(self, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The total, and the instance features of the local and the global views."""
        options, context = self.options, self.context
        transform = context.card.transform
        view = crop_and_flip(images, transform, context.generator)
        seen, glob = self._observe(view)
        loss = options.bn * bn_loss(seen.batchnorm) + options.oh * F.cross_entropy(seen.logits, targets)
        if self.adversarial:
            student = context.student(view)
            adversary = agreement_adversary if options.adv_kind == "agreement" else _all_adversary
            loss = loss + options.adv * adversary(student, seen.logits)
        if not options.cr:
            return loss, glob, glob
        close = random_resized_crop(images, context.generator, scale=(options.local_area, 1.0), flip=transform.flip)
        _, local = self._observe(close)
        return loss + options.cr * self._contrast(local, glob), local, glob

    def _observe(self, images: Tensor) -> tuple[Observation, Tensor]:
        """The teacher's view of images, and h(x)."""
        teacher = self.context.teacher
        if self.options.contrast_of == "batchnorm":
            seen = teacher.observe(images, batchnorm=True)
            return seen, instance_features(inputs for _, inputs in seen.batchnorm)
        seen = teacher.observe(images, batchnorm=True, inputs=teacher.stage_names)
        return seen, instance_features(seen.inputs[name] for name in teacher.stage_names)

    def _contrast(self, local: Tensor, glob: Tensor) -> Tensor:
        old_local, old_glob = self.bank.sample(self.options.negatives, self.context.generator)
        with self.context.autocast():
            projected_local = self.head(torch.cat((local, old_local)))
            with torch.no_grad():
                projected_glob = self.head(torch.cat((glob, old_glob)))
        return contrastive_loss(projected_local, projected_glob, len(local), self.options.cr_tau)

    def state_dict(self) -> dict[str, Any]:
        """Head, its optimizer, the generator's weights, the instance bank and whether the last round was warm-up."""
        return {
            "generator": self.generator.state_dict(),
            "head": self.head.state_dict(),
            "head_optimizer": self.head_optimizer.state_dict(),
            "bank": self.bank.state_dict(),
            "warming_up": self.warming_up,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.generator.load_state_dict(state["generator"])
        self.head.load_state_dict(state["head"])
        self.head_optimizer.load_state_dict(state["head_optimizer"])
        self.bank.load_state_dict(state["bank"])
        self.warming_up = state["warming_up"]


def _all_adversary(student: Tensor, teacher: Tensor) -> Tensor:
    return -kl_divergence(student, teacher)
