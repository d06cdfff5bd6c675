"""Where distances between images are taken, if not in the teacher's features: a timm network from a local folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import BaseModel, Field
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench.errors import DfkdError
from dfkd_bench.foreign import read_model
from dfkd_bench.models import timm_models
from dfkd_bench.teachers.weights import find_weights, fit

__all__ = ["timm_features"]

# Large images: a batch of fewer than the measures look at.
_BATCH = 50


class _Size(BaseModel):
    input_size: tuple[int, int, int] = Field((3, 224, 224), description="channels, height and width")


class _Config(BaseModel):
    architecture: str
    pretrained_cfg: _Size = _Size()


def timm_features(folder: Path, device: torch.device) -> Callable[[Tensor], Tensor]:
    """A function from bytes [N, C, H, W] to pooled features [N, D] on the CPU.

    The folder is as timm's `save_for_hf` leaves it: `config.json` with the architecture, `model.safetensors`. Images
    are resized to the network's size (bicubic, antialiased), gray ones taken as three equal channels.

    Raises:
        DfkdError: the folder is none of that kind, or its weights do not fit the architecture.
    """
    try:
        said = read_model(_Config, folder / "config.json", "timm configuration", "name a folder of timm's save_for_hf")
    except FileNotFoundError as error:
        raise DfkdError(f"there is no config.json in {folder}: name a folder of timm's save_for_hf") from error
    source = find_weights(folder)
    if source.normalization is None:
        raise DfkdError(f"{folder / 'config.json'} says no mean and std: write it again with timm's save_for_hf")
    network = timm_models.build(said.architecture, num_classes=0)
    # The classifier, whatever it is called, is all that the network without one lacks.
    head = set(timm_models.build(said.architecture, num_classes=2).state_dict()) - set(network.state_dict())
    state = {name: value for name, value in source.state.items() if name not in head}
    fit(network, state, said.architecture, source.name)
    network = network.to(device).eval()
    mean, std = (torch.tensor(values, device=device).view(1, -1, 1, 1) for values in source.normalization)
    size = said.pretrained_cfg.input_size[1:]

    @torch.inference_mode()
    def features(images: Tensor) -> Tensor:
        seen = []
        for batch in images.split(_BATCH):
            pixels = (batch.to(device).float() / 255).expand(-1, 3, -1, -1)
            large = F.interpolate(pixels, size, mode="bicubic", antialias=True).clamp(0, 1)
            seen.append(network((large - mean) / std).float().flatten(1).cpu())
        return torch.cat(seen)

    return features
