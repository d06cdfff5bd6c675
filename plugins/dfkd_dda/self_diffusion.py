"""Diffusion augmentation without outside weights: a small diffusion model that learns from the bank itself."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench import (
    Augmenter,
    DatasetCard,
    ImageBank,
    Passes,
    Projection,
    StageContext,
    StageOptions,
    SyntheticBatch,
    Workload,
    flops_per_image,
)

# The U-Net normalizes in eight groups.
_Channels = Annotated[int, Field(ge=8, multiple_of=8)]


class SelfDiffusionOptions(StageOptions):
    """Options of `self-diffusion`."""

    added = frozenset({"class_conditional"})

    variants: int = Field(1, ge=1, description="variants of each image")
    strength: float = Field(0.6, gt=0, le=1, description="how far into the noise an image goes; 1 forgets it")
    steps: int = Field(10, ge=1, description="denoising steps from pure noise; an image takes strength times as many")
    train_steps: int = Field(400, ge=1, description="training steps of the diffusion model on the bank")
    train_batch: int = Field(64, ge=1, description="images in a training step")
    lr: float = Field(1e-3, gt=0, description="AdamW's learning rate; goes to zero as a cosine")
    channels: tuple[_Channels, ...] = Field(
        (32, 64, 64), min_length=1, description="channels of the U-Net's levels, each a multiple of 8"
    )
    timesteps: int = Field(1000, ge=2, description="noise levels of the diffusion process")
    class_conditional: bool = Field(False, description="the U-Net knows each image's target class")

    @property
    def steps_taken(self) -> int:
        """Denoising steps of an image."""
        return max(1, round(self.steps * self.strength))


# Training steps between two possible checkpoints of the run.
_STEPS_AT_A_TIME = 25


def _unet(levels: tuple[int, ...], card: DatasetCard, *, class_conditional: bool) -> Any:
    """A U-Net with so many channels at each level."""
    from diffusers import UNet2DModel  # takes seconds, and whoever only plans needs none of it

    channels, height, width = card.image_shape
    return UNet2DModel(
        sample_size=(height, width),
        in_channels=channels,
        out_channels=channels,
        layers_per_block=1,
        block_out_channels=levels,
        down_block_types=("DownBlock2D",) * (len(levels) - 1) + ("AttnDownBlock2D",),
        up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (len(levels) - 1),
        norm_num_groups=8,
        num_class_embeds=card.num_classes if class_conditional else None,
    )


@functools.lru_cache(maxsize=64)
def _image_flops(levels: tuple[int, ...], card: DatasetCard) -> int:
    """Of an image forward; to know its class is no multiplication."""
    channels, height, width = card.image_shape
    padded = (1, channels, _filled_up(levels, height), _filled_up(levels, width))
    return flops_per_image(lambda: _unet(levels, card, class_conditional=False), padded, (1,))


def _filled_up(levels: tuple[int, ...], side: int) -> int:
    """The next larger side that every level but the last can halve."""
    multiple: int = 2 ** (len(levels) - 1)
    return side + -side % multiple


class SelfDiffusion(Augmenter[SelfDiffusionOptions]):
    """A U-Net trained on the bank's images (DDPM, arXiv 2006.11239), then noise and denoise (SDEdit, arXiv 2108.01073).

    It knows nothing but what the teacher gave: its prior is `none`. Unconditional unless `class_conditional`.
    """

    Options = SelfDiffusionOptions

    def __init__(self, options: SelfDiffusionOptions, context: StageContext) -> None:
        super().__init__(options, context)
        from diffusers import DDIMScheduler

        with context.seeded():
            unet = _unet(options.channels, context.card, class_conditional=options.class_conditional)
            self.unet = unet.to(context.device)
        context.ledger.watch(self.unet, "diffusion")
        # Trailing: the first step starts at the last noise level, so that strength 1 is pure noise.
        self.scheduler = DDIMScheduler(
            options.timesteps, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing", clip_sample_range=1.0
        )
        self.trained_steps = 0
        self._optimizer = torch.optim.AdamW(self.unet.parameters(), options.lr, fused=context.device.type == "cuda")
        self._schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self._optimizer, options.train_steps)

    @classmethod
    def projection(cls, options: SelfDiffusionOptions, load: Workload) -> Projection:
        """The U-Net's training, and its evaluations for the variants."""
        trained, variants = options.train_steps * options.train_batch, load.sources * options.variants

        def flops() -> int:
            return _image_flops(options.channels, load.card)

        training = Passes("diffusion", trained, trained, trained=True, flops=flops)
        return Projection(variants, (training, Passes("diffusion", variants * options.steps_taken, flops=flops)))

    def prepare(self, bank: ImageBank) -> float:
        """Some steps of the U-Net's training to tell the noise in the bank's images."""
        options = self.options
        self.unet.train().requires_grad_(True)
        for _ in range(min(_STEPS_AT_A_TIME, options.train_steps - self.trained_steps)):
            self._train_step(bank)
            self.trained_steps += 1
            self.context.tick(self.trained_steps, options.train_steps)
        self.unet.eval().requires_grad_(False)
        return self.trained_steps / options.train_steps

    def _train_step(self, bank: ImageBank) -> None:
        options, generator, device = self.options, self.context.generator, self.context.device
        index = torch.randint(len(bank), (options.train_batch,), generator=generator, device=device)
        batch = bank.batch(index)
        clean = 2 * batch.images - 1
        noise = torch.randn(clean.shape, generator=generator, device=device)
        at = torch.randint(options.timesteps, (len(clean),), generator=generator, device=device)
        noisy = self.scheduler.add_noise(clean, noise, at)
        loss = F.mse_loss(self._noise_in(noisy, at, batch.targets), noise)
        self._optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self._optimizer.step()
        self._schedule.step()

    @torch.no_grad()
    def augment(self, batch: SyntheticBatch) -> SyntheticBatch:
        """`variants` of each image: into the noise by `strength`, and back (deterministic DDIM)."""
        options, context = self.options, self.context
        source = torch.arange(len(batch), device=context.device).repeat_interleave(options.variants)
        clean, targets = 2 * batch.images[source] - 1, batch.targets[source]
        self.scheduler.set_timesteps(options.steps)
        on_host = self.scheduler.timesteps[options.steps - options.steps_taken :]
        going = on_host.to(context.device)
        noise = torch.randn(clean.shape, generator=context.generator, device=context.device)
        noisy = self.scheduler.add_noise(clean, noise, going[:1].expand(len(clean)))
        # The scheduler computes with the number, which it would wait for if it were on the device.
        for at, number in zip(going, on_host.tolist(), strict=True):
            noisy = self.scheduler.step(self._noise_in(noisy, at, targets), number, noisy).prev_sample
        images = ((noisy + 1) / 2).clamp(0, 1)
        return SyntheticBatch(images, targets, source)

    def _noise_in(self, noisy: Tensor, at: Tensor, targets: Tensor) -> Tensor:
        height, width = noisy.shape[-2:]
        # What the levels cannot halve evenly is filled up from the edge.
        wider, higher = (_filled_up(self.options.channels, side) - side for side in (width, height))
        padded = F.pad(noisy, (0, wider, 0, higher), mode="replicate")
        labels = targets if self.options.class_conditional else None
        with self.context.autocast():
            noise: Tensor = self.unet(padded, at, class_labels=labels).sample
        return noise.float()[..., :height, :width]

    def state_dict(self) -> dict[str, Any]:
        """The U-Net's weights, and while it is in training its optimizer."""
        state = {"unet": self.unet.state_dict(), "trained_steps": self.trained_steps}
        if self.trained_steps < self.options.train_steps:
            state |= {"optimizer": self._optimizer.state_dict(), "schedule": self._schedule.state_dict()}
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self.unet.load_state_dict(state["unet"])
        self.unet.eval().requires_grad_(False)
        self.trained_steps = state["trained_steps"]
        if "optimizer" in state:
            self._optimizer.load_state_dict(state["optimizer"])
            self._schedule.load_state_dict(state["schedule"])
