"""One root seed feeds named, independent random streams."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["global_stream", "stream", "stream_seed"]


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
