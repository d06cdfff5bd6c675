"""Checkpoints: a killed run goes on where it was, and ends in the same record."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from dfkd_bench.errors import DfkdError
from dfkd_bench.files import replacing
from dfkd_bench.plugins import Registry
from dfkd_bench.sources import source_hashes
from dfkd_bench.spec import RunSpec

__all__ = ["Checkpoint", "Resumable"]


# A large bank takes its time to write: checkpoints may cost a fiftieth of the run.
_SHARE = 50


class Resumable(Protocol):
    """What can be checkpointed."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""


class Checkpoint:
    """One run's checkpoint file, replaced whole.

    Args:
        path: the file.
        spec: whose run it is.
        registry: for the versions and the source of the plugins, which must be the same on the way back.
        seconds: least time between two checkpoints; 0 for one after every segment, whatever that costs.
    """

    def __init__(self, path: Path, spec: RunSpec, registry: Registry, seconds: float) -> None:
        self.path = path
        self.seconds = seconds
        self._identity = {
            "run": spec.hash,
            "torch": str(torch.__version__),
            **registry.versions(),
            **source_hashes(spec, registry),
        }
        self._last = time.monotonic()
        self._took = 0.0

    def restore(self, run: Resumable) -> None:
        """Let `run` go on from the file, if there is one.

        Raises:
            DfkdError: it is damaged, or was written by other code or for another spec.
        """
        if not self.path.exists():
            return
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            identity, state = content["identity"], content["state"]
        except Exception as error:  # torch raises many kinds for a damaged file
            raise DfkdError(f"the checkpoint {self.path} is damaged: remove it, and the run starts anew") from error
        different = [name for name in {*identity, *self._identity} if identity.get(name) != self._identity.get(name)]
        if different:
            name = min(different)
            raise DfkdError(
                f"the checkpoint {self.path} was written with {name} {identity.get(name)}, now it is "
                f"{self._identity.get(name)}: go on with that version, or remove the file and the run starts anew"
            )
        run.load_state_dict(state)

    def save_if_due(self, run: Resumable) -> None:
        """Write the file if the last one is old enough."""
        start = time.monotonic()
        if self.seconds and start - self._last < max(self.seconds, _SHARE * self._took):
            return
        with replacing(self.path) as temporary:
            # Through memory: torch's own writer raises a RuntimeError for a full disk, not an OSError.
            buffer = io.BytesIO()
            torch.save({"identity": self._identity, "state": run.state_dict()}, buffer)
            temporary.write_bytes(buffer.getbuffer())
        self._last = time.monotonic()
        self._took = self._last - start

    def remove(self) -> None:
        """The run has ended."""
        self.path.unlink(missing_ok=True)
