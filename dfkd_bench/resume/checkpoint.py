"""Checkpoints: what was killed resumes where it was; on a CPU it ends as if it had not been."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from dfkd_bench.errors import DfkdError
from dfkd_bench.files import replacing
from dfkd_bench.foreign import check_regular
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.results.records import Environment
from dfkd_bench.resume.code_hash import network_hashes
from dfkd_bench.resume.outcome import of_exception
from dfkd_bench.spec import RunSpec

__all__ = ["Checkpoint", "Resumable", "run_identity", "training_identity"]


# A large bank takes its time to write: checkpoints may cost a fiftieth of the run.
_SHARE = 50
_CODE = "the code of "


class Resumable(Protocol):
    """What can be checkpointed."""

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""


def run_identity(spec: RunSpec, environment: Environment) -> dict[str, str]:
    """What must be the same when a run resumes: its spec, where it computes, the libraries, the source of its stages.

    Another device's random streams are others, and a run that is half one thing and half another could not be reported
    as either.
    """
    return {"run": spec.hash, **_where(environment), **_coded(environment.code or {})}


def training_identity(teacher: str, registry: Registry, environment: Environment, model: str) -> dict[str, str]:
    """The same for the training of a teacher, known by its network, dataset and recipe."""
    return {"teacher": teacher, **_where(environment), **_coded(network_hashes([model], registry))}


def _coded(hashes: Mapping[str, str]) -> dict[str, str]:
    return {_CODE + name: found for name, found in hashes.items()}


def _where(environment: Environment) -> dict[str, str]:
    return {"device": environment.device, "precision": environment.precision, **environment.versions}


class Checkpoint:
    """The checkpoint file of one run or one teacher's training, replaced whole.

    Args:
        path: the file.
        identity: whose it is; all of it must be the same on the way back.
        seconds: least time between two checkpoints; 0 for one after every segment, whatever that costs.
        what: what starts anew without the file.
        anew_if_edited: a file of other source is dropped, and the run starts anew.
    """

    def __init__(
        self,
        path: Path,
        identity: Mapping[str, str],
        seconds: float,
        what: str = "run",
        *,
        anew_if_edited: bool = False,
    ) -> None:
        self.path = path
        self.seconds = seconds
        self._identity, self._what = dict(identity), what
        self._anew = f"remove the file, and the {what} starts anew"
        self._anew_if_edited = anew_if_edited
        self._last = time.monotonic()
        self._took = 0.0
        self._tried = False

    def restore(self, run: Resumable) -> None:
        """Let `run` resume from the file, if there is one.

        Raises:
            DfkdError: it is damaged, or was written by other code or for another spec.
        """
        try:
            check_regular(self.path)
        except FileNotFoundError:
            return
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            identity, state = content["identity"], content["state"]
        except Exception as error:  # torch raises many kinds for a damaged file
            if _no_memory(error):
                raise
            if isinstance(error, OSError):
                raise DfkdError(f"cannot read the checkpoint {self.path} ({error.strerror}): fix that first") from error
            raise DfkdError(
                f"the checkpoint {self.path} is damaged: remove it, and the {self._what} starts anew"
            ) from error
        different = [name for name in {*identity, *self._identity} if identity.get(name) != self._identity.get(name)]
        if different and self._anew_if_edited and all(name.startswith(_CODE) for name in different):
            self.remove()
            return
        if different:
            name = min(different)
            raise DfkdError(
                f"the checkpoint {self.path} was written with {name} {identity.get(name)}, now it is "
                f"{self._identity.get(name)}: go back to what it was, or {self._anew}"
            )
        try:
            run.load_state_dict(state)
        except Exception as error:
            if _no_memory(error):
                raise
            raise DfkdError(
                f"the {self._what} cannot resume from the checkpoint {self.path} ({of_exception(error)[1]}): "
                f"{self._anew}"
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
        """What it was for has ended."""
        self.path.unlink(missing_ok=True)


def _no_memory(error: BaseException) -> bool:
    return of_exception(error)[0] == "out-of-memory"
