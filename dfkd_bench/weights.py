"""Weights in files: read without running code, checked name by name, known by their content."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from dfkd_bench.errors import DfkdError, first_line

__all__ = ["fit", "read_weights", "save_weights", "weights_hash"]


def weights_hash(state: Mapping[str, Tensor]) -> str:
    """SHA-256 of a state's names, types, shapes and bytes: the same whatever file it lies in."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state in a safetensors file or a torch checkpoint: bare, or under `state_dict`, `module.` stripped.

    Raises:
        DfkdError: there is no such file, it is damaged, or it needs more than `weights_only=True` to load.
    """
    if not path.is_file():
        raise DfkdError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return dict(safetensors.torch.load_file(path))
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files make the readers raise many kinds
        if isinstance(error, pickle.UnpicklingError) and "Unsupported global" in str(error):
            raise DfkdError(
                f"{path} holds more than tensors and plain data, and loading it could run code: "
                "save its state_dict alone"
            ) from error
        reason = first_line(error)
        raise DfkdError(f"{path} cannot be read as weights ({reason}): it may be damaged or incomplete") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DfkdError(f"{path} is neither a state_dict nor a checkpoint with one under 'state_dict'")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def fit(body: nn.Module, state: Mapping[str, Tensor], model: str, source: str) -> None:
    """Load a state into a network, every name and shape alike.

    Raises:
        DfkdError: names the first parameter that differs, in the network's order.
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
    extra = next((name for name in state if name not in own), None)
    if extra is not None:
        raise DfkdError(f"{source} is no {model}: it has '{extra}' {list(state[extra].shape)}, which {model} has not")
    body.load_state_dict({**own, **state})


def save_weights(state: Mapping[str, Tensor], path: Path) -> None:
    """Write a state as safetensors.

    Raises:
        OSError: it cannot be written (the library's own writer raises other kinds for a full disk).
    """
    path.write_bytes(safetensors.torch.save({name: t.detach().cpu().contiguous() for name, t in state.items()}))
