"""What a run needs beside its spec, as plain data that travels to another process or machine. Imports no torch."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from dfkd_bench.results.again import Again

if TYPE_CHECKING:
    from dfkd_bench.workbench import Workbench

__all__ = ["WorkerSettings"]


class WorkerSettings(BaseModel):
    """Folders, all absolute, and how to compute."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    results: Path
    teachers: Path
    data_root: Path | None
    device: str
    precision: str
    checkpoint_seconds: float
    again: Again
    keep_bank: bool = False
    deterministic: bool = False
    compile: bool = False
    graphs: bool = False

    @classmethod
    def of(
        cls, bench: Workbench, *, checkpoint_seconds: float, again: Again, keep_bank: bool = False
    ) -> WorkerSettings:
        """Those of a workbench."""
        where = bench.execution
        settled = "bf16" if str(where.precision) == "torch.bfloat16" else "fp32"
        return cls(
            results=bench.results.path.absolute(),
            teachers=bench.store.path.absolute(),
            data_root=None if where.data_root is None else where.data_root.absolute(),
            device=where.device.type,
            # Each run settles `auto` for its own GPU, and says so in its record.
            precision=where.asked[1] if where.device.type == "cuda" else settled,
            checkpoint_seconds=checkpoint_seconds,
            again=again,
            keep_bank=keep_bank,
            deterministic=where.deterministic,
            compile=where.compile,
            graphs=where.graphs,
        )
