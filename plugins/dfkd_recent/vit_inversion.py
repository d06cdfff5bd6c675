"""Inversion of vision transformers without BatchNorm.

The patch-similarity prior is PSAQ-ViT's (Li et al., arXiv 2203.02250), the sparse patches are SMI's (Hu et al., arXiv
2510.27186).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

from dfkd_bench import DfkdError, Round, StageContext, StageOptions, Synthesizer, SyntheticBatch
from dfkd_bench.blocks.image_priors import total_variation
from dfkd_bench.blocks.views import jitter_and_flip
from dfkd_bench.stages.network import attention_names

# The kernel density is read off at so many points between the least and the greatest similarity.
_POINTS = 10
# 32 images of 3 x 224 x 224, for which the total variation's goal is published.
_PUBLISHED_VALUES = 32 * 3 * 224 * 224


def patch_similarities(patches: Tensor) -> Tensor:
    """Cosine similarity of all patch pairs: [N, P, D] -> [N, P^2], each pair twice and each patch with itself once."""
    unit = F.normalize(patches, dim=2)
    return (unit @ unit.transpose(1, 2)).flatten(1)


def density_entropy(similarities: Tensor, bandwidth: float) -> Tensor:
    """Differential entropy [N] of each image's similarities [N, S], by a Gaussian kernel and the trapezoid rule.

    The density is read off at ten points between the least and the greatest similarity of the batch; 1e-4 is added.
    """
    bounds = similarities.detach().aminmax()
    points = bounds.min + (bounds.max - bounds.min) * torch.linspace(0, 1, _POINTS, device=similarities.device)
    distances = (points[None, :, None] - similarities[:, None, :]) / bandwidth
    density = (-0.5 * distances.square()).exp().mean(dim=2) / (bandwidth * (2 * torch.pi) ** 0.5) + 1e-4
    return torch.trapezoid(-density * density.log(), points, dim=1)


def patch_loss(blocks: Sequence[Tensor], bandwidth: float, pairs: int, generator: torch.Generator) -> Tensor:
    """L_pse = -sum_blocks mean_images H: minus the entropy of the similarities of patches [N, P, D] in each block.

    Of more than `pairs` similarities in an image as many are drawn, the same in all images.
    """
    total = torch.zeros((), device=blocks[0].device)
    for patches in blocks:
        found = patch_similarities(patches)
        if found.shape[1] > pairs:
            drawn = torch.randint(found.shape[1], (pairs,), generator=generator, device=found.device)
            found = found[:, drawn]
        total = total - density_entropy(found, bandwidth).mean()
    return total


def class_attention(query: Tensor, key: Tensor, prefix: int) -> Tensor:
    """How much each patch is looked at [N, P], the mean over heads: by the class token, without one by all tokens.

    `query` and `key` are [N, heads, T, d]; the first `prefix` of the T tokens are no patches.
    """
    looking = query[:, :, :1] if prefix else query
    weights: Tensor = (looking @ key.transpose(2, 3) * key.shape[-1] ** -0.5).softmax(dim=-1)
    return weights.mean(dim=(1, 2))[:, prefix:]


def learning_rate(step: int, steps: int, warmup_part: float) -> float:
    """Linearly up to 1 over the warm-up, then on a cosine to 0; for steps 0 to `steps` - 1."""
    rising = round(warmup_part * steps)
    if step < rising:
        return (step + 1) / rising
    return (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2


class VitInversionOptions(StageOptions):
    """Options of `vit-inversion`."""

    batch_size: int = Field(32, ge=1, description="images in a round")
    steps: int = Field(500, ge=1, description="optimization steps of each of the two phases of a round")
    warmup_part: float = Field(0.2, ge=0, lt=1, description="part of a phase in which the learning rate rises")
    lr: float = Field(0.2, gt=0, description="Adam's learning rate at its height, in normalized pixels; Swin's is 0.25")
    betas: tuple[float, float] = Field((0.5, 0.9), description="Adam's betas")
    pse: float = Field(1.0, ge=0, description="weight of the patch-similarity prior")
    oh: float = Field(1.0, ge=0, description="weight of the cross-entropy with the wanted classes")
    tv: float = Field(0.05, ge=0, description="weight of the distance of the total variation from a drawn goal")
    tv_goal: tuple[float, float] = Field(
        (2500.0, 3000.0), description="bounds of that goal for 32 images of 224 x 224; scaled to others"
    )
    bandwidth: float = Field(0.01, gt=0, description="of the similarities' kernel density")
    pairs: int = Field(4096, ge=2, description="patch pairs of an image that the density is made of; drawn if more")
    jitter: float = Field(
        0.067, ge=0, lt=0.5, description="largest shift in the first phase, as a part of the side; twice that later"
    )
    sparse_at: tuple[float, ...] = Field(
        (),
        description="parts of a round after which patches are dropped; released: 0.0125, 0.025, 0.05, 0.075",
        examples=[(0.5,), (0.25, 0.5)],
    )
    sparse_drop: float = Field(0.3, gt=0, lt=1, description="part of the live patches that are dropped each time")

    @model_validator(mode="after")
    def _parts_in_order(self) -> VitInversionOptions:
        if any(not 0 < at < 1 for at in self.sparse_at) or list(self.sparse_at) != sorted(set(self.sparse_at)):
            raise ValueError("sparse_at must be different parts between 0 and 1 in rising order")
        return self


class VitInversion(Synthesizer[VitInversionOptions]):
    """x* = argmin pse L_pse + oh CE(T(x), y) + tv |TV(x) - v|, from Gaussian noise; no BatchNorm is looked at.

    Two phases, the second with twice the jitter. With `sparse_at` patches that the last block's class token heeds
    least are dropped on the way: they cost nothing from then on, and are the dataset's mean color in the end.
    """

    Options = VitInversionOptions
    requires = frozenset({"attention"})

    def __init__(self, options: VitInversionOptions, context: StageContext) -> None:
        super().__init__(options, context)
        self._attention = attention_names(context.teacher.body)
        if not self._attention:
            raise DfkdError(f"vit-inversion needs a transformer, and {type(context.teacher.body).__name__} is none")
        self._prefix = int(getattr(context.teacher.body, "num_prefix_tokens", 0))
        self._sparse = bool(options.sparse_at)
        self._rows, self._columns, self._side = self._grid() if self._sparse else (0, 0, 0)
        self._drops = {max(1, round(part * 2 * options.steps)) for part in options.sparse_at}

    def synthesize(self, round: Round) -> SyntheticBatch:
        """`batch_size` images with uniformly drawn, sorted target classes."""
        options, context = self.options, self.context
        generator, device = context.generator, context.device
        mean, std = context.teacher.mean, context.teacher.std
        shape = (options.batch_size, *context.card.image_shape)
        pixels = torch.randn(shape, generator=generator, device=device, requires_grad=True)
        targets = torch.randint(context.card.num_classes, shape[:1], generator=generator, device=device).sort().values
        goal = self._goal(pixels)
        live = torch.arange(self._rows * self._columns, device=device).expand(shape[0], -1) if self._sparse else None
        for done in range(2 * options.steps):
            phase, step = divmod(done, options.steps)
            if step == 0:
                optimizer = torch.optim.Adam([pixels], options.lr, options.betas, fused=True)
            for group in optimizer.param_groups:
                group["lr"] = options.lr * learning_rate(step, options.steps, options.warmup_part)
            if live is not None and done in self._drops:
                live = self._dropped(pixels, live)
            loss = self._loss(pixels, targets, goal, live, phase)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                pixels.copy_(torch.clamp(pixels, -mean / std, (1 - mean) / std))
            context.tick(done + 1, 2 * options.steps)
        images = pixels.detach() if live is None else pixels.detach() * self._shown(live)
        return SyntheticBatch((images * std + mean).clamp(0, 1), targets)

    def _goal(self, pixels: Tensor) -> Tensor:
        """v of this round. An L2 norm grows with the root of the count of its values."""
        low, high = self.options.tv_goal
        drawn = torch.rand((), generator=self.context.generator, device=pixels.device)
        return (low + (high - low) * drawn) * math.sqrt(pixels.numel() / _PUBLISHED_VALUES)

    def _loss(self, pixels: Tensor, targets: Tensor, goal: Tensor, live: Tensor | None, phase: int) -> Tensor:
        options, context = self.options, self.context
        view, live = self._view(pixels, live, phase)
        inner = [f"{name}.proj" for name in self._attention] if options.pse else []
        with self._only(live):
            # Not cut to [0, 1] here: the gradient is to reach pixels that lie outside.
            seen = context.teacher.observe(view * context.teacher.std + context.teacher.mean, inputs=inner)
        loss = options.oh * F.cross_entropy(seen.logits, targets)
        if options.tv:
            loss = loss + options.tv * (total_variation(pixels, "l2_norm") - goal).abs()
        if options.pse:
            patches = [self._patches(name, seen.inputs[f"{name}.proj"]) for name in self._attention]
            loss = loss + options.pse * patch_loss(patches, options.bandwidth, options.pairs, context.generator)
        return loss

    def _patches(self, name: str, values: Tensor) -> Tensor:
        """The attention's weighted values [N, T, heads d] as the mean over heads, of patches alone: [N, P, d]."""
        heads: int = self._module(name).num_heads
        by_head: Tensor = values.unflatten(2, (heads, -1))
        return by_head.mean(dim=2)[:, self._prefix :]

    def _view(self, pixels: Tensor, live: Tensor | None, phase: int) -> tuple[Tensor, Tensor | None]:
        """The pixels shifted around the edges and mirrored, and where the live patches are then."""
        shift = int(pixels.shape[2] * self.options.jitter * (phase + 1))
        flip, generator = self.context.card.transform.flip, self.context.generator
        if live is None:
            return jitter_and_flip(pixels, shift, flip, generator), None
        # Each pixel carries its patch's number along; what the middle of a patch shows says who came there.
        numbers = torch.arange(self._rows * self._columns, device=pixels.device, dtype=pixels.dtype)
        numbers = self._spread(numbers.expand(len(pixels), -1))
        moved = jitter_and_flip(torch.cat((pixels, numbers), dim=1), shift, flip, generator)
        middle, side = self._side // 2, self._side
        came = moved[:1, -1, middle::side, middle::side].detach().flatten().long()
        return moved[:, :-1], came.argsort()[live]

    @torch.no_grad()
    def _dropped(self, pixels: Tensor, live: Tensor) -> Tensor:
        """The live patches [N, L] without those that the last block heeds least, of images where they are."""
        context, name = self.context, self._attention[-1]
        with self._only(live):
            seen = context.teacher.observe(pixels * context.teacher.std + context.teacher.mean, maps=[f"{name}.qkv"])
        attention = self._module(name)
        query, key, _ = seen.maps[f"{name}.qkv"].unflatten(2, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4)
        if hasattr(attention, "q_norm"):
            query, key = attention.q_norm(query), attention.k_norm(key)
        heeded = class_attention(query, key, self._prefix)
        kept = max(1, int(live.shape[1] * (1 - self.options.sparse_drop)))
        return live.gather(1, heeded.topk(kept).indices).sort(dim=1).values

    def _shown(self, live: Tensor) -> Tensor:
        """1 where a pixel belongs to a live patch, else 0: [N, 1, H, W]."""
        shown = torch.zeros(len(live), self._rows * self._columns, device=live.device)
        return self._spread(shown.scatter_(1, live, 1.0))

    def _spread(self, patches: Tensor) -> Tensor:
        """A value for each patch [N, P] as one for each of its pixels [N, 1, H, W]."""
        grid = patches.view(len(patches), 1, self._rows, self._columns)
        return grid.repeat_interleave(self._side, dim=2).repeat_interleave(self._side, dim=3)

    @contextmanager
    def _only(self, live: Tensor | None) -> Iterator[None]:
        """Inside, no other patches enter the teacher's blocks; their places have been added by then."""
        if live is None:
            yield
            return
        ahead = torch.arange(self._prefix, device=live.device).expand(len(live), -1)
        index = torch.cat((ahead, live + self._prefix), dim=1)[..., None]

        def gather(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
            return (inputs[0].gather(1, index.expand(-1, -1, inputs[0].shape[2])), *inputs[1:])

        handle = self._module(self._attention[0].rpartition(".")[0]).register_forward_pre_hook(gather)
        try:
            yield
        finally:
            handle.remove()

    def _module(self, name: str) -> Any:
        return self.context.teacher.body.get_submodule(name)

    @torch.no_grad()
    def _grid(self) -> tuple[int, int, int]:
        """Rows, columns and side of the patches.

        Raises:
            DfkdError: the blocks do not see all patches of an image in one piece.
        """
        context = self.context
        _, height, width = context.card.image_shape
        name = f"{self._attention[0]}.proj"
        blank = torch.zeros(1, *context.card.image_shape, device=context.device)
        count, tokens, _ = context.teacher.observe(blank, inputs=[name]).inputs[name].shape
        side = math.isqrt(height * width // max(1, tokens - self._prefix))
        if count != 1 or (height // side) * (width // side) != tokens - self._prefix or height % side or width % side:
            raise DfkdError(
                f"vit-inversion can drop patches only of a transformer whose blocks see all square patches of an image "
                f"at once, as {type(context.teacher.body).__name__} does not: set synthesizer.sparse_at=[]"
            )
        return height // side, width // side, side
