"""One root seed feeds named, independent random streams."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["global_state", "global_stream", "set_global_state", "stream", "stream_seed"]


def stream_seed(root: int, name: str) -> int:
    """A 63-bit seed for the stream `name` under the root seed."""
    digest = hashlib.sha256(f"{root}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def stream(root: int, name: str, device: torch.device | str = "cpu") -> torch.Generator:
    """A seeded generator for the stream `name` on `device`."""
    return torch.Generator(device=device).manual_seed(stream_seed(root, name))


@contextmanager
def global_stream(seed: int, device: torch.device) -> Iterator[None]:
    """Let torch's global generators draw from `seed` inside, and put them back as they were afterwards.

    For code that takes no generator: the initial weights of a module, dropout.
    """
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(seed)
        yield


def global_state(device: torch.device) -> list[torch.Tensor]:
    """The state of torch's global generators that code on `device` may draw from."""
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def set_global_state(state: list[torch.Tensor], device: torch.device) -> None:
    """Put the global generators where `global_state` saw them."""
    torch.set_rng_state(state[0].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state[1].cpu(), device)
