"""SpaceshipNet, channel feature exchange and multi-scale attention maps (Yu et al., CVPR 2023)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dfkd_bench import (
    DatasetCard,
    DfkdError,
    Distiller,
    Network,
    NetworkFacts,
    Observation,
    Round,
    StageContext,
    StageOptions,
    Synthesizer,
    SyntheticBatch,
    frozen,
)
from dfkd_bench.blocks.batchnorm import bn_loss
from dfkd_bench.blocks.best import Best
from dfkd_bench.blocks.generators import doubling_layers, placed, quarter
from dfkd_bench.blocks.kd import kl_divergence
from dfkd_bench.blocks.views import crop_and_flip

#: Where a hidden map can enter the generator.
LEVELS = 3


class OpenGenerator(nn.Module):
    """CMI's generator with its hidden maps in sight, and doors for them.

    A latent [N, nz] becomes h0 [N, first, H/4, W/4], h1 [N, 128, H/2, W/2], h2 [N, 64, H, W], images in [0, 1].
    """

    def __init__(self, latent_dim: int, image_shape: tuple[int, int, int], first: int = 128) -> None:
        super().__init__()
        channels, self._height, self._width = image_shape
        self._start = quarter(first, image_shape)
        layers = [nn.BatchNorm2d(first), *doubling_layers(first, channels)]
        self.linear = nn.Linear(latent_dim, math.prod(self._start))
        self.parts = nn.ModuleList(nn.Sequential(*layers[a:b]) for a, b in ((0, 1), (1, 5), (5, 9), (9, 11)))

    @property
    def map_shapes(self) -> list[tuple[int, int, int]]:
        """Channels, height and width of h0, h1 and h2."""
        _, height, width = self._start
        channels = (self._start[0], 128, 64)
        return [(count, height * 2**level, width * 2**level) for level, count in enumerate(channels)]

    def forward(self, entering: Tensor, level: int | None = None) -> list[Tensor]:
        """The maps behind where `entering` comes in, the images last: a latent, or with `level` that hidden map."""
        x = self.linear(entering).view(len(entering), *self._start) if level is None else entering
        found = []
        for part in self.parts[0 if level is None else level + 1 :]:
            x = part(x)
            found.append(x)
        found[-1] = x[..., : self._height, : self._width]
        return found


def exchange_channels(maps: Tensor, ratio: float, generator: torch.Generator) -> Tensor:
    """Channel feature exchange: image i takes round(ratio C) channels, drawn for each image, from image N-1-i."""
    draws = torch.rand(maps.shape[:2], generator=generator, device=maps.device)
    taken = draws.argsort(dim=1).argsort(dim=1) < round(ratio * maps.shape[1])
    return torch.where(taken[..., None, None], maps.flip(0), maps)


class SpaceshipOptions(StageOptions):
    """Options of `spaceshipnet`'s synthesizer; the defaults are the released settings."""

    batch_size: int = Field(256, ge=1, description="images in a round")
    steps: int = Field(200, ge=1, description="generator steps in a round")
    lr: float = Field(1e-3, gt=0, description="Adam's learning rate of the generator")
    latent_dim: int = Field(256, ge=1, description="length of a latent")
    bn: float = Field(1.0, ge=0, description="weight of the BatchNorm statistics' distance")
    oh: float = Field(0.5, ge=0, description="weight of the cross-entropy with the wanted classes")
    optimize_latents: bool = Field(
        False, description="optimize the latents with the generator; released code means to and does not (B32)"
    )
    labels: Literal["balanced", "cyclic"] = Field(
        "balanced",
        description="who has one image more where classes do not divide the batch: drawn, or as released the first "
        "classes in every round (B33)",
    )
    cfe_prob: float = Field(0.7, ge=0, le=1, description="probability that a student's batch exchanges channels")
    cfe_ratio: float = Field(0.5, ge=0, le=1, description="part of the channels that come from the other image")
    pool: int = Field(51_200, ge=1, description="most images whose hidden maps are kept, oldest dropped first")


class Spaceship(Synthesizer[SpaceshipOptions]):
    """A persistent generator learns oh L_oh + bn L_bn; the student is fed mixtures of its hidden maps.

    Of each round the step with the lowest loss leaves its hidden maps in a pool. For a student's batch maps of one
    level are drawn, pairs of images exchange channels, and the generator as it is by now decodes them (B34).
    """

    Options = SpaceshipOptions
    stream = True
    # A mixture has two, and released code does not look at them.
    gives_targets = False
    requires = frozenset({"batchnorm"})

    @classmethod
    def warn_with(cls, options: SpaceshipOptions, teacher: NetworkFacts, card: DatasetCard) -> str | None:
        """What a full pool takes, where it is more than a GiB."""
        shapes = OpenGenerator(1, card.image_shape).map_shapes
        total = 2 * options.pool * sum(math.prod(shape) for shape in shapes)
        if total <= 2**30:
            return None
        return f"a full pool of hidden maps takes {total / 2**30:.1f} GiB; a smaller synthesizer.pool takes less"

    def __init__(self, options: SpaceshipOptions, context: StageContext) -> None:
        super().__init__(options, context)
        with context.seeded():
            self.generator = placed(OpenGenerator(options.latent_dim, context.card.image_shape), context.device)
        context.ledger.watch(self.generator, "generator")
        # Half precision. On a CPU memory is taken when it is written to.
        shapes, self.room = self.generator.map_shapes, min(options.pool, context.bank_capacity or options.pool)
        self.maps = [torch.empty(self.room, *shape, dtype=torch.float16, device=context.device) for shape in shapes]
        self.targets = torch.empty(self.room, dtype=torch.int64, device=context.device)
        self.count = self.next = 0
        self.levels: list[int] = []

    def synthesize(self, round: Round) -> SyntheticBatch:
        """`batch_size` images of each class equally often; their hidden maps go into the pool."""
        options, context = self.options, self.context
        shape = (options.batch_size, options.latent_dim)
        latents = torch.randn(
            shape, generator=context.generator, device=context.device, requires_grad=options.optimize_latents
        )
        targets = self._targets()
        learned = [*self.generator.parameters(), *([latents] if options.optimize_latents else [])]
        optimizer = torch.optim.Adam(learned, options.lr, (0.5, 0.999), fused=True)
        best = Best()
        self.generator.train()
        for step in range(options.steps):
            with context.autocast():
                maps = self.generator(latents)
            loss = self._loss(maps[-1].float(), targets)
            best.update(loss, *maps)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            context.tick(step + 1, options.steps)
        self._keep(best.tensors[:LEVELS], targets)
        return SyntheticBatch(best.tensors[-1].float().clamp(0, 1), targets)

    def _targets(self) -> Tensor:
        """0..K-1 over and over; the classes of the incomplete last time are drawn, or the first ones."""
        count, classes, device = self.options.batch_size, self.context.card.num_classes, self.context.device
        targets = torch.arange(count, device=device) % classes
        if self.options.labels == "balanced" and count % classes:
            order = torch.randperm(classes, generator=self.context.generator, device=device)
            targets[count - count % classes :] = order[: count % classes]
        return targets

    def _loss(self, images: Tensor, targets: Tensor) -> Tensor:
        context = self.context
        seen = context.teacher.observe(crop_and_flip(images, context.card.transform, context.generator), batchnorm=True)
        return self.options.oh * F.cross_entropy(seen.logits, targets) + self.options.bn * bn_loss(seen.batchnorm)

    def _keep(self, maps: tuple[Tensor, ...], targets: Tensor) -> None:
        room = self.room
        kept = min(room, len(targets))
        place = (torch.arange(kept, device=targets.device) + self.next) % room
        for level, found in zip(self.maps, maps, strict=True):
            level[place] = found[:kept].half()
        self.targets[place] = targets[:kept]
        self.next, self.count = (self.next + kept) % room, min(room, self.count + kept)

    @torch.no_grad()
    def sample(self, count: int) -> SyntheticBatch:
        """`count` decoded mixtures, with the classes that own the channels which are not exchanged."""
        options, context = self.options, self.context
        generator, device = context.generator, context.device
        level = self._level()
        index = torch.randint(self.count, (count,), generator=generator, device=device)
        maps, targets = self.maps[level][index].float(), self.targets[index]
        exchanged = exchange_channels(maps, options.cfe_ratio, generator)
        mix = torch.rand((), generator=generator, device=device) < options.cfe_prob
        self.generator.eval()
        with context.autocast():
            images = self.generator(torch.where(mix, exchanged, maps), level)[-1]
        view = crop_and_flip(images.float(), context.card.transform, generator)
        return SyntheticBatch(view, targets)

    def pool_size(self) -> int:
        """The images whose hidden maps are kept."""
        return self.count

    def _level(self) -> int:
        """Which of the three levels the next batch enters at; drawn a thousand at a time, to wait for a GPU once."""
        if not self.levels:
            context = self.context
            self.levels = torch.randint(LEVELS, (1000,), generator=context.generator, device=context.device).tolist()
        return self.levels.pop()

    def state_dict(self) -> dict[str, Any]:
        """The generator, the pool as far as it is filled, and the levels to come."""
        return {
            "generator": self.generator.state_dict(),
            "pool": [level[: self.count].to("cpu", copy=True) for level in self.maps],
            "targets": self.targets[: self.count].to("cpu", copy=True),
            "next": self.next,
            "levels": list(self.levels),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.generator.load_state_dict(state["generator"])
        self.count, self.next, self.levels = len(state["targets"]), state["next"], list(state["levels"])
        self.targets[: self.count] = state["targets"].to(self.targets.device)
        for level, kept in zip(self.maps, state["pool"], strict=True):
            level[: self.count] = kept.to(level.device)


def class_maps(final_map: Tensor, classifier: nn.Linear, *, bias: bool) -> Tensor:
    """C_k(u) = sum_c W_kc F_c(u) (+ b_k): classes' maps [N, K, H, W] of final maps [N, C, H, W]; W and b constant."""
    found = torch.einsum("kc,nchw->nkhw", classifier.weight.detach(), final_map)
    return found + classifier.bias.detach()[:, None, None] if bias and classifier.bias is not None else found


def gradient_maps(logits: Tensor, maps: Sequence[Tensor], classes: Tensor, *, keep_graph: bool) -> list[Tensor]:
    """M = sum_c w_c A_c of each map A, w_c the spatial mean of d logit_class / d A_c, a constant: [N, H, W] each."""
    wanted = logits.gather(1, classes[:, None]).sum()
    slopes = torch.autograd.grad(wanted, maps, retain_graph=keep_graph)
    return [(slope.mean(dim=(2, 3), keepdim=True) * each).sum(dim=1) for slope, each in zip(slopes, maps, strict=True)]


@dataclass(frozen=True)
class FinalMap:
    """The maps that are pooled into the penultimate features: a module's output, on some networks behind a ReLU."""

    module: str
    rectified: bool

    @classmethod
    @torch.no_grad()
    def of(cls, network: Network, images: Tensor) -> FinalMap:
        """Found by looking: the largest maps, the last of these, whose spatial means are the features.

        Raises:
            DfkdError: there are none, since the network pools nothing.
        """
        names = [name for name, module in network.body.named_modules() if name and not list(module.children())]
        names += network.stage_names
        with frozen(network):
            seen = network.observe(images, maps=list(dict.fromkeys(names)))
        found: list[tuple[int, FinalMap]] = []
        for name, each in seen.maps.items():
            if each.dim() == 4 and each.shape[1] == seen.features.shape[1]:
                for rectified in (False, True):
                    mean = (each.relu() if rectified else each).mean(dim=(2, 3))
                    if torch.allclose(mean, seen.features, rtol=1e-2, atol=1e-3):
                        found.append((each[0, 0].numel(), cls(name, rectified)))
                        break
        if not found:
            raise DfkdError(
                f"spaceshipnet's class maps need a network that pools its last maps, which "
                f"{type(network.body).__name__} does not: set distiller.cam=0"
            )
        largest = max(size for size, _ in found)
        return [each for size, each in found if size == largest][-1]

    def read(self, seen: Observation) -> Tensor:
        """[N, C, H, W] of a pass that observed the module."""
        found = seen.maps[self.module]
        return found.relu() if self.rectified else found


class SpaceshipDistillerOptions(StageOptions):
    """Options of `spaceshipnet`'s distiller; the defaults are the released settings."""

    tau: float = Field(30.0, gt=0, description="temperature of both players' softmax")
    cam: float = Field(1.0, ge=0, description="weight of the classes' maps, made of the last stage's maps")
    gcam: float = Field(1.0, ge=0, description="weight of the gradient-weighted maps of each stage")
    bias: bool = Field(
        True,
        description="the classes' maps contain the classifier's biases, so that their means are the logits; "
        "released: they do not",
    )
    kl_reduction: Literal["released", "batchmean"] = Field(
        "released", description="released: KL averaged over images and classes, which the weights go with"
    )


class SpaceshipDistiller(Distiller[SpaceshipDistillerOptions]):
    """KL_tau / K + cam MSE(C^S, C^T) + gcam sum_l MSE(M_l^S, M_l^T), for the class that the teacher sees."""

    Options = SpaceshipDistillerOptions

    @classmethod
    def requires_with(cls, options: SpaceshipDistillerOptions) -> frozenset[str]:
        """Stages of both networks, unless there is no map to compare."""
        return frozenset({"stages"}) if options.cam or options.gcam else frozenset()

    @classmethod
    def unmet(
        cls, options: SpaceshipDistillerOptions, teacher: NetworkFacts, student: NetworkFacts, card: DatasetCard
    ) -> str | None:
        """The networks must have as many stages as each other."""
        stages = [len(facts.stage_inputs or ()) for facts in (teacher, student)]
        if not options.gcam or 0 in stages or stages[0] == stages[1]:
            return None
        return f"compares stage by stage, but the teacher has {stages[0]} and the student {stages[1]}"

    def __init__(self, options: SpaceshipDistillerOptions, context: StageContext) -> None:
        super().__init__(options, context)
        self._finals: tuple[FinalMap, FinalMap] | None = None

    def losses(self, student: Network, teacher: Network, batch: SyntheticBatch) -> dict[str, Tensor]:
        """`kd`, `cam` and `gcam`; the maps' only where they have a weight."""
        options = self.options
        if options.cam and self._finals is None:
            self._finals = FinalMap.of(teacher, batch.images[:2]), FinalMap.of(student, batch.images[:2])
        finals = self._finals or ()
        names = [list(network.stage_names) if options.gcam else [] for network in (teacher, student)]
        wanted_maps = [[*stages, *(each.module for each in finals[at : at + 1])] for at, stages in enumerate(names)]
        # A frozen teacher's maps have gradients only where the images do.
        shown = teacher.observe(batch.images.detach().requires_grad_(options.gcam > 0), maps=_once(wanted_maps[0]))
        seen = student.observe(batch.images, maps=_once(wanted_maps[1]))
        wanted = shown.logits.detach()
        losses = {"kd": kl_divergence(seen.logits, wanted, options.tau) / self._divisor(wanted)}
        if finals:
            # The classifiers are constants here: only the student's maps learn from it.
            theirs = class_maps(finals[0].read(shown).detach(), teacher.classifier, bias=options.bias)
            ours = class_maps(finals[1].read(seen), student.classifier, bias=options.bias)
            losses["cam"] = options.cam * map_distance(ours, theirs)
        if options.gcam:
            classes = wanted.argmax(dim=1)
            theirs_by_stage = gradient_maps(
                shown.logits, [shown.maps[name] for name in names[0]], classes, keep_graph=False
            )
            ours_by_stage = gradient_maps(seen.logits, [seen.maps[name] for name in names[1]], classes, keep_graph=True)
            pairs = zip(ours_by_stage, theirs_by_stage, strict=True)
            losses["gcam"] = options.gcam * torch.stack([map_distance(a, b.detach()) for a, b in pairs]).sum()
        return losses

    def _divisor(self, logits: Tensor) -> int:
        return logits.shape[1] if self.options.kl_reduction == "released" else 1

    def reference(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """`kd` as tau^2 times the mean, over images (and as released over classes), of p (ln p - ln q)."""
        p, q = (F.softmax(logits / self.options.tau, dim=1) for logits in (teacher, student))
        summed = (p * (p.log() - q.log())).sum(dim=1).mean()
        return {"kd": self.options.tau**2 * summed / self._divisor(teacher)}


def _once(names: list[str]) -> list[str]:
    return list(dict.fromkeys(names))


def map_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """The mean squared difference.

    Raises:
        DfkdError: they are of different sizes.
    """
    if student.shape != teacher.shape:
        sizes = " and ".join("x".join(map(str, each.shape[-2:])) for each in (teacher, student))
        raise DfkdError(
            f"spaceshipnet compares maps of one size, but teacher and student have {sizes}: "
            "choose networks with the same strides, or set distiller.cam=0 distiller.gcam=0"
        )
    return F.mse_loss(student, teacher)
