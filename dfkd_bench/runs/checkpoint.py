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
from dfkd_bench.results.records import Environment
from dfkd_bench.runs.outcome import of_exception
from dfkd_bench.spec import RunSpec

__all__ = ["Checkpoint", "Resumable"]


# A large bank takes its time to write: checkpoints may cost a fiftieth of the run.
_SHARE = 50
_CODE = "the code of "


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
        environment: the source, the kind of device, the precision and the libraries must be the same on the way back:
            another device's random streams are others, and a run that is half one thing and half another could not be
            told as either.
        seconds: least time between two checkpoints; 0 for one after every segment, whatever that costs.
        anew_if_edited: a file of other source is dropped, and the run starts anew.
    """

    def __init__(
        self, path: Path, spec: RunSpec, environment: Environment, seconds: float, *, anew_if_edited: bool = False
    ) -> None:
        self.path = path
        self.seconds = seconds
        self._identity = {
            "run": spec.hash,
            "device": environment.device,
            "precision": environment.precision,
            **environment.versions,
            **{_CODE + name: found for name, found in (environment.code or {}).items()},
        }
        self._anew_if_edited = anew_if_edited
        self._last = time.monotonic()
        self._took = 0.0
        self._tried = False

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
            if _no_memory(error):
                raise
            if isinstance(error, OSError):
                raise DfkdError(f"cannot read the checkpoint {self.path} ({error.strerror}): fix that first") from error
            raise DfkdError(f"the checkpoint {self.path} is damaged: remove it, and the run starts anew") from error
        different = [name for name in {*identity, *self._identity} if identity.get(name) != self._identity.get(name)]
        if different and self._anew_if_edited and all(name.startswith(_CODE) for name in different):
            self.remove()
            return
        if different:
            name = min(different)
            raise DfkdError(
                f"the checkpoint {self.path} was written with {name} {identity.get(name)}, now it is "
                f"{self._identity.get(name)}: go on with what it was, or remove the file and the run starts anew"
            )
        try:
            run.load_state_dict(state)
        except Exception as error:
            if _no_memory(error):
                raise
            raise DfkdError(
                f"the run cannot go on from the checkpoint {self.path} ({of_exception(error)[1]}): "
                "remove it, and the run starts anew"
            ) from error

    def save_if_due(self, run: Resumable) -> None:
        """Write the file if the last one is old enough."""
        start = time.monotonic()
        if self.seconds and start - self._last < max(self.seconds, _SHARE * self._took):
            return
        with replacing(self.path) as temporary:
            # Through memory: torch's own writer raises a RuntimeError for a full disk, not an OSError.
            buffer = io.BytesIO()
            torch.save({"identity": self._identity, "state": run.state_dict()}, buffer)
            self._try(buffer)
            temporary.write_bytes(buffer.getbuffer())
        self._last = time.monotonic()
        self._took = self._last - start

    def _try(self, buffer: io.BytesIO) -> None:
        """Once per start: what a stage puts into its state must be readable when it is wanted."""
        if self._tried:
            return
        self._tried = True
        buffer.seek(0)
        found = torch.serialization.get_unsafe_globals_in_checkpoint(buffer)
        if found:
            names = ", ".join(sorted(found))
            raise TypeError(f"a stage's state_dict holds {names}: only tensors and plain data can be read back")

    def remove(self) -> None:
        """The run has ended."""
        self.path.unlink(missing_ok=True)


def _no_memory(error: BaseException) -> bool:
    return of_exception(error)[0] == "out-of-memory"
