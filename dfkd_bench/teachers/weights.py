"""Weights in files: read without running code, checked name by name, known by their content."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import safetensors.torch
import torch
from pydantic import BaseModel, Field, model_validator
from torch import Tensor, nn

from dfkd_bench.errors import DfkdError, first_line
from dfkd_bench.foreign import Number, check_regular, own_path, read_model
from dfkd_bench.models.build import TIMM
from dfkd_bench.stages.network import Normalization

__all__ = ["Source", "find_weights", "fit", "read_weights", "save_weights", "teacher_identity", "weights_hash"]


class _Norm(NamedTuple):
    mean: tuple[float, ...]
    std: tuple[float, ...]


class _Pretrained(BaseModel):
    mean: tuple[Number, ...] | None = None
    std: tuple[Annotated[Number, Field(gt=0)], ...] | None = None

    @model_validator(mode="after")
    def _both(self) -> _Pretrained:
        if len(self.mean or ()) != len(self.std or ()):
            raise ValueError("mean and std need one value per channel")
        return self


class _Config(BaseModel):
    """What of timm's `config.json` matters here."""

    pretrained_cfg: _Pretrained = _Pretrained()


@dataclass(frozen=True)
class Source:
    """Weights, what they are called, and the normalization that they say they need."""

    state: dict[str, Tensor]
    name: str
    normalization: _Norm | None = None


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state's names, types, shapes and bytes: the same whatever file it is in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def teacher_identity(weights: str, norm: Normalization, usual: Normalization) -> str:
    """What a teacher is known by: equal weights that see differently normalized images give different answers.

    Args:
        weights: the hash of its weights, which is also the identity where the normalization is the dataset's.
        norm: the normalization of the images that it sees.
        usual: the normalization of its dataset's card.
    """
    own, plain = ((tuple(map(float, one.mean)), tuple(map(float, one.std))) for one in (norm, usual))
    if own == plain:
        return weights
    return hashlib.sha256(f"{weights} {own}".encode()).hexdigest()


def find_weights(where: Path | str) -> Source:
    """Weights from a file, from a folder as timm's `save_for_hf` leaves it, or timm's own (`timm/<name>.<tag>`).

    Raises:
        DfkdError: they are not there or cannot be read.
    """
    if str(where).startswith(TIMM):
        from dfkd_bench.models import timm_models

        state, mean, std = timm_models.published(str(where))
        return Source(state, str(where), _Norm(mean, std))
    path = own_path(str(where))
    if not path.is_dir():
        return Source(read_weights(path), f"file {path.name}")
    file = next((path / name for name in ("model.safetensors", "pytorch_model.bin") if (path / name).is_file()), None)
    if file is None:
        raise DfkdError(f"there is no model.safetensors in {path}: name the file with the weights")
    try:
        said = read_model(_Config, path / "config.json", "timm configuration", "write it again, or remove it")
    except FileNotFoundError:
        said = _Config()
    norm = None if said.pretrained_cfg.mean is None else _Norm(said.pretrained_cfg.mean, said.pretrained_cfg.std or ())
    return Source(read_weights(file), f"folder {path.name}", norm)


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state in a safetensors file or a torch checkpoint: bare, or under `state_dict`, `module.` stripped.

    Raises:
        DfkdError: there is no such file, it is damaged, or it needs more than `weights_only=True` to load.
    """
    try:
        check_regular(path)
    except FileNotFoundError as error:
        raise DfkdError(f"there is no weights file {path}") from error
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the readers raise many kinds
        if isinstance(error, pickle.UnpicklingError) and "unsupported global" in str(error).lower():
            raise DfkdError(
                f"{path} holds more than tensors and plain data, and loading it could run code: "
                "save its state_dict alone"
            ) from error
        # Torch's own words about a pickle advise to load it all the same, whatever it runs.
        reason = "its pickle is not torch's" if isinstance(error, pickle.UnpicklingError) else first_line(error)
        raise DfkdError(f"{path} cannot be read as weights ({reason}): it may be damaged or incomplete") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DfkdError(f"{path} is neither a state_dict nor a checkpoint with one under 'state_dict'")
    for name, value in content.items():
        kind = _kind(value)
        if kind is not None:
            raise DfkdError(f"{path} holds '{name}' as a {kind} tensor: save plain tensors with all their values")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def _kind(tensor: Tensor) -> str | None:
    """What keeps a tensor from being plain numbers; None if nothing does."""
    if tensor.is_meta:
        return "meta"
    if tensor.is_quantized:
        return "quantized"
    if tensor.is_nested:
        return "nested"
    return None if tensor.layout == torch.strided else str(tensor.layout).removeprefix("torch.")


def fit(body: nn.Module, state: Mapping[str, Tensor], model: str, source: str) -> None:
    """Load a state into a network, every name and shape alike.

    Raises:
        DfkdError: names the first parameter that differs or holds no finite numbers, in the network's order.
    """
    own = body.state_dict()
    for name, tensor in own.items():
        # Old checkpoints lack this counter, which no method reads.
        if name not in state and not name.endswith("num_batches_tracked"):
            raise DfkdError(f"{source} is no {model}: it has no '{name}' {list(tensor.shape)}")
        if name in state and state[name].shape != tensor.shape:
            raise DfkdError(
                f"{source} does not fit {model}: '{name}' is {list(state[name].shape)} there, {list(tensor.shape)} here"
            )
        if name in state:
            _check_values(state[name], tensor, name, source)
    extra = next((name for name in state if name not in own), None)
    if extra is not None:
        raise DfkdError(f"{source} is no {model}: it has '{extra}' {list(state[extra].shape)}, which {model} has not")
    body.load_state_dict({**own, **state})


def _check_values(given: Tensor, own: Tensor, name: str, source: str) -> None:
    """Torch would copy whole numbers, the real part of complex ones and what is not a number without a word."""
    if own.is_floating_point() != given.is_floating_point():
        kinds = [str(tensor.dtype).removeprefix("torch.") for tensor in (given, own)]
        raise DfkdError(
            f"{source} has '{name}' as {kinds[0]}, not as {kinds[1]}: save the weights as they were trained"
        )
    if given.is_floating_point() and not bool(torch.isfinite(given).all()):
        raise DfkdError(
            f"{source} has '{name}' with values that are not finite: its training diverged, or it is damaged"
        )


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state as safetensors.

    Raises:
        OSError: it cannot be written (the library's own writer raises other kinds for a full disk).
    """
    path.write_bytes(safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in state.items()}))
