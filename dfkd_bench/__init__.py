"""dfkd-bench: a benchmark suite for data-free knowledge distillation that its users can believe.

`from dfkd_bench import run` runs one method; a plugin imports `hookimpl`, `Method`, `use` and the stages' bases.
Names are looked up on first use, so that importing the package imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "SMALL": "method",
    "Augmenter": "stages.base",
    "CostLedger": "stages.ledger",
    "DatasetCard": "card",
    "DfkdError": "errors",
    "Distiller": "stages.base",
    "Filter": "stages.base",
    "ImageBank": "stages.bank",
    "Method": "method",
    "Network": "stages.network",
    "NetworkFacts": "stages.requirements",
    "Observation": "stages.network",
    "Passes": "stages.passes",
    "Preset": "method",
    "Prior": "method",
    "Projection": "stages.passes",
    "Record": "results.records",
    "Results": "results.records",
    "Round": "stages.base",
    "RunEvent": "hooks.events",
    "RunSpec": "spec",
    "Schedule": "method",
    "StageContext": "stages.base",
    "StageOptions": "stages.options",
    "SyntheticBatch": "stages.bank",
    "Synthesizer": "stages.base",
    "TeacherRecipe": "card",
    "TrainTransform": "card",
    "Workload": "stages.passes",
    "first_line": "errors",
    "flops_per_image": "stages.passes",
    "frozen": "stages.network",
    "hookimpl": "hooks.specs",
    "run": "api",
    "use": "method",
}

if TYPE_CHECKING:
    from dfkd_bench.api import run
    from dfkd_bench.card import DatasetCard, TeacherRecipe, TrainTransform
    from dfkd_bench.errors import DfkdError, first_line
    from dfkd_bench.hooks.events import RunEvent
    from dfkd_bench.hooks.specs import hookimpl
    from dfkd_bench.method import SMALL, Method, Preset, Prior, Schedule, use
    from dfkd_bench.results.records import Record, Results
    from dfkd_bench.spec import RunSpec
    from dfkd_bench.stages.bank import ImageBank, SyntheticBatch
    from dfkd_bench.stages.base import Augmenter, Distiller, Filter, Round, StageContext, Synthesizer
    from dfkd_bench.stages.ledger import CostLedger
    from dfkd_bench.stages.network import Network, Observation, frozen
    from dfkd_bench.stages.options import StageOptions
    from dfkd_bench.stages.passes import Passes, Projection, Workload, flops_per_image
    from dfkd_bench.stages.requirements import NetworkFacts

__all__ = [
    "SMALL",
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
    "Passes",
    "Preset",
    "Prior",
    "Projection",
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
    "TeacherRecipe",
    "TrainTransform",
    "Workload",
    "__version__",
    "first_line",
    "flops_per_image",
    "frozen",
    "hookimpl",
    "run",
    "use",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'dfkd_bench' has no attribute '{name}'")
    return getattr(importlib.import_module(f"dfkd_bench.{_HOME[name]}"), name)
