"""Diffusion augmentation without outside weights: a small diffusion model that learns from the bank itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench import Augmenter, ImageBank, StageContext, StageOptions, SyntheticBatch

# The U-Net normalizes in eight groups.
_Channels = Annotated[int, Field(ge=8, multiple_of=8)]


class SelfDiffusionOptions(StageOptions):
    """Options of `self-diffusion`."""

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


class SelfDiffusion(Augmenter[SelfDiffusionOptions]):
    """An unconditional U-Net trained on the bank's images (DDPM, arXiv 2006.11239), then noise and denoise (SDEdit,
    arXiv 2108.01073).

    It knows nothing but what the teacher gave: its prior is `none`.
    """

    Options = SelfDiffusionOptions

    def __init__(self, options: SelfDiffusionOptions, context: StageContext) -> None:
        super().__init__(options, context)
        from diffusers import DDIMScheduler, UNet2DModel  # takes seconds, and whoever only plans needs none of it

        channels, height, width = context.card.image_shape
        levels = len(options.channels)
        with context.seeded():
            self.unet = UNet2DModel(
                sample_size=(height, width),
                in_channels=channels,
                out_channels=channels,
                layers_per_block=1,
                block_out_channels=options.channels,
                down_block_types=("DownBlock2D",) * (levels - 1) + ("AttnDownBlock2D",),
                up_block_types=("AttnUpBlock2D",) + ("UpBlock2D",) * (levels - 1),
                norm_num_groups=8,
            ).to(context.device)
        context.ledger.watch(self.unet, "diffusion")
        # Trailing: the first step starts at the last noise level, so that strength 1 is pure noise.
        self.scheduler = DDIMScheduler(
            options.timesteps, beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing", clip_sample_range=1.0
        )

    def prepare(self, bank: ImageBank) -> None:
        """Train the U-Net to tell the noise in the bank's images."""
        options, context = self.options, self.context
        generator, device = context.generator, context.device
        optimizer = torch.optim.AdamW(self.unet.parameters(), options.lr, fused=device.type == "cuda")
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options.train_steps)
        self.unet.train().requires_grad_(True)
        for step in range(options.train_steps):
            index = torch.randint(len(bank), (options.train_batch,), generator=generator, device=device)
            clean = 2 * bank.batch(index).images - 1
            noise = torch.randn(clean.shape, generator=generator, device=device)
            at = torch.randint(options.timesteps, (len(clean),), generator=generator, device=device)
            loss = F.mse_loss(self._noise_in(self.scheduler.add_noise(clean, noise, at), at), noise)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            context.tick(step + 1, options.train_steps)
        self.unet.eval().requires_grad_(False)

    @torch.no_grad()
    def augment(self, batch: SyntheticBatch) -> SyntheticBatch:
        """`variants` of each image: into the noise by `strength`, and back (deterministic DDIM)."""
        options, context = self.options, self.context
        source = torch.arange(len(batch), device=context.device).repeat_interleave(options.variants)
        clean = 2 * batch.images[source] - 1
        self.scheduler.set_timesteps(options.steps)
        on_host = self.scheduler.timesteps[options.steps - max(1, round(options.steps * options.strength)) :]
        going = on_host.to(context.device)
        noise = torch.randn(clean.shape, generator=context.generator, device=context.device)
        noisy = self.scheduler.add_noise(clean, noise, going[:1].expand(len(clean)))
        # The scheduler computes with the number, which it would wait for if it were on the device.
        for at, number in zip(going, on_host.tolist(), strict=True):
            noisy = self.scheduler.step(self._noise_in(noisy, at), number, noisy).prev_sample
        images = ((noisy + 1) / 2).clamp(0, 1)
        return SyntheticBatch(images, batch.targets[source], source)

    def _noise_in(self, noisy: Tensor, at: Tensor) -> Tensor:
        height, width = noisy.shape[-2:]
        # Each level but the last halves the sides: what does not divide evenly is filled up from the edge.
        multiple = 2 ** (len(self.options.channels) - 1)
        padded = F.pad(noisy, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        with self.context.autocast():
            told: Tensor = self.unet(padded, at).sample
        return told.float()[..., :height, :width]

    def state_dict(self) -> dict[str, Any]:
        """The U-Net's weights."""
        return {"unet": self.unet.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`. It is trained by then: nothing is saved between `prepare`'s begin and its end."""
        self.unet.load_state_dict(state["unet"])
        self.unet.eval().requires_grad_(False)
