"""Ten stages, each right on a CPU and wrong on a GPU in a way of its own; and one that is right on both.

Those of `BROKEN` end a run on a GPU, those of `SLOW` make it wait for the device, or copy to it, at every step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dfkd_bench import Method, Round, StageOptions, Synthesizer, SyntheticBatch, hookimpl, use

__all__ = ["BROKEN", "FAULTLESS", "SLOW", "DeviceFaults"]

FAULTLESS = "faultless"


class Faultless(Synthesizer[StageOptions]):
    """A generator in one layer, learned in a few steps."""

    def __init__(self, options: Any, context: Any) -> None:
        super().__init__(options, context)
        with context.seeded():
            layer = nn.Linear(4, 3 * 32 * 32)
        self.layer = self.place(layer)

    def synthesize(self, round: Round) -> SyntheticBatch:
        context = self.context
        latents = self.draw(12)
        targets = torch.randint(10, (12,), generator=context.generator, device=context.device)
        optimizer = torch.optim.Adam(self.layer.parameters(), 1e-3, fused=True)
        for _ in range(3):
            images = self.layer(latents).sigmoid().view(12, 3, 32, 32)
            loss = self.look(F.cross_entropy(context.teacher(self.dress(images)), targets), images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return SyntheticBatch(images.detach(), targets)

    def place(self, layer: nn.Module) -> nn.Module:
        return layer.to(self.context.device)

    def draw(self, count: int) -> Tensor:
        return torch.randn(count, 4, generator=self.context.generator, device=self.context.device)

    def dress(self, images: Tensor) -> Tensor:
        return images

    def look(self, loss: Tensor, images: Tensor) -> Tensor:
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {"layer": self.layer.state_dict()}

    def load_state_dict(self, state: Any) -> None:
        self.layer.load_state_dict(state["layer"])


class ModuleLeftOnTheHost(Faultless):
    def place(self, layer: nn.Module) -> nn.Module:
        return layer


class ConstantOnTheHost(Faultless):
    def dress(self, images: Tensor) -> Tensor:
        return images - torch.tensor([0.5, 0.4, 0.3]).view(1, -1, 1, 1)


class GeneratorOfTheHost(Faultless):
    def draw(self, count: int) -> Tensor:
        return torch.randn(count, 4, generator=torch.Generator().manual_seed(0), device=self.context.device)


class IndexOfTheDevice(Faultless):
    def draw(self, count: int) -> Tensor:
        kept = torch.zeros(30, 4)
        order = torch.randperm(30, generator=self.context.generator, device=self.context.device)
        return kept[order[:count]].to(self.context.device)


class StateLeftOnTheHost(Faultless):
    bias = None

    def dress(self, images: Tensor) -> Tensor:
        if self.bias is None:
            self.bias = images.detach().mean(dim=0)
        return images + self.bias

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "bias": self.bias}

    def load_state_dict(self, state: Any) -> None:
        super().load_state_dict(state)
        self.bias = state["bias"]


class LossAsked(Faultless):
    def look(self, loss: Tensor, images: Tensor) -> Tensor:
        self.last = loss.item()
        return loss


class BestChosen(Faultless):
    best = 1e9

    def look(self, loss: Tensor, images: Tensor) -> Tensor:
        if loss < self.best:
            self.kept = images
        return loss


class MaskedImages(Faultless):
    def look(self, loss: Tensor, images: Tensor) -> Tensor:
        return loss + images[images.mean(dim=(1, 2, 3)) > 0.5].mean()


class ImagesFetched(Faultless):
    def look(self, loss: Tensor, images: Tensor) -> Tensor:
        self.last = images.detach().cpu()
        return loss


class WeightsSent(Faultless):
    def look(self, loss: Tensor, images: Tensor) -> Tensor:
        return loss + (torch.tensor([1.0, 2.0, 3.0], device=images.device) * images.mean(dim=(0, 2, 3))).sum()


#: By what the error says.
BROKEN = {
    ModuleLeftOnTheHost: "same device",
    ConstantOnTheHost: "same device",
    GeneratorOfTheHost: "device type for generator",
    IndexOfTheDevice: "indices should be",
    StateLeftOnTheHost: "same device",
}
#: By what is seen, and the line at which it is.
SLOW = {
    LossAsked: ("wait (one number)", "loss.item()"),
    BestChosen: ("wait (one number)", "if loss < self.best"),
    MaskedImages: ("wait (index by a mask)", "images[images.mean"),
    ImagesFetched: ("download (aten::_to_copy)", "images.detach().cpu()"),
    WeightsSent: ("upload (aten::_to_copy)", "torch.tensor([1.0"),
}


class DeviceFaults:
    """All of them as methods."""

    @hookimpl
    def dfkd_synthesizers(self, register: Callable[..., None]) -> None:
        """By their classes' names."""
        for stage in (Faultless, *BROKEN, *SLOW):
            register(_name(stage), stage)

    @hookimpl
    def dfkd_methods(self, register: Callable[..., None]) -> None:
        """One for each."""
        for stage in (Faultless, *BROKEN, *SLOW):
            name = _name(stage)
            register(
                Method(
                    name=name,
                    summary="a fault",
                    synthesizer=use(name),
                    schedule={"steps_per_epoch": 3, "batch_size": 8, "lr": 0.1, "epochs": 1},
                    presets=({"name": "quick"},),
                )
            )


def _name(stage: type[Faultless]) -> str:
    return FAULTLESS if stage is Faultless else stage.__name__
