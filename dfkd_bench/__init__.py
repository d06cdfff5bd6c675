"""dfkd-bench: a benchmark suite for data-free knowledge distillation that its users can believe.

`from dfkd_bench import run` runs one method; a plugin imports `hookimpl`, `Method`, `use` and the stages' bases.
Names are looked up on first use, so that importing the package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Augmenter": "stages",
    "CostLedger": "ledger",
    "DatasetCard": "datasets.card",
    "DfkdError": "errors",
    "Distiller": "stages",
    "Filter": "stages",
    "ImageBank": "bank",
    "Method": "method",
    "Network": "network",
    "NetworkFacts": "needs",
    "Observation": "network",
    "Preset": "method",
    "Record": "records",
    "Results": "records",
    "Round": "stages",
    "RunEvent": "events",
    "RunSpec": "spec",
    "Schedule": "method",
    "StageContext": "stages",
    "StageOptions": "stages",
    "SyntheticBatch": "bank",
    "Synthesizer": "stages",
    "TrainTransform": "datasets.card",
    "hookimpl": "hookspecs",
    "run": "api",
    "use": "method",
}

if TYPE_CHECKING:
    from dfkd_bench.api import run
    from dfkd_bench.bank import ImageBank, SyntheticBatch
    from dfkd_bench.datasets.card import DatasetCard, TrainTransform
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.events import RunEvent
    from dfkd_bench.hookspecs import hookimpl
    from dfkd_bench.ledger import CostLedger
    from dfkd_bench.method import Method, Preset, Schedule, use
    from dfkd_bench.needs import NetworkFacts
    from dfkd_bench.network import Network, Observation
    from dfkd_bench.records import Record, Results
    from dfkd_bench.spec import RunSpec
    from dfkd_bench.stages import Augmenter, Distiller, Filter, Round, StageContext, StageOptions, Synthesizer

__all__ = [
    "Augmenter",
    "CostLedger",
    "DatasetCard",
    "DfkdError",
    "Distiller",
    "Filter",
    "ImageBank",
    "Method",
    "Network",
    "NetworkFacts",
    "Observation",
    "Preset",
    "Record",
    "Results",
    "Round",
    "RunEvent",
    "RunSpec",
    "Schedule",
    "StageContext",
    "StageOptions",
    "Synthesizer",
    "SyntheticBatch",
    "TrainTransform",
    "__version__",
    "hookimpl",
    "run",
    "use",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dfkd_bench' has no attribute '{name}'")
    return getattr(importlib.import_module(f"dfkd_bench.{_HOME[name]}"), name)
