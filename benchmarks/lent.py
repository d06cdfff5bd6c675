"""What the scripts for a lent GPU share: a checkout that need not be installed, a clock, runs made short, a table.

Imports no more than Python's own, so that what is missing can be said in a sentence.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dfkd_bench.card import DatasetCard
    from dfkd_bench.hooks.registry import Registry
    from dfkd_bench.planning.requests import Request
    from dfkd_bench.spec import RunSpec

__all__ = ["Clock", "TimeIsUp", "make_registry", "out_folder", "require", "shortened", "table", "use_checkout", "write"]

ROOT = Path(__file__).resolve().parents[1]
#: What the package imports for a run, and how it is installed where the two names differ.
NEEDED = ("torch", "pluggy", "pydantic", "typing_extensions", "numpy", "PIL", "filelock", "platformdirs", "safetensors")
INSTALLED_AS = {"PIL": "pillow", "sklearn": "scikit-learn", "typing_extensions": "typing-extensions"}
PLUGINS = {"core": "dfkd_bench.builtin", "baselines": "dfkd_baselines", "dda": "dfkd_dda"}


def require(*more: str) -> None:
    """Leave with one sentence where a module that is needed cannot be imported; diffusers is not among them."""
    missing = [INSTALLED_AS.get(name, name) for name in (*NEEDED, *more) if find_spec(name) is None]
    if missing:
        raise SystemExit(f"this Python has no {', '.join(missing)}: install with pip install {' '.join(missing)}")


def use_checkout() -> None:
    """Import from the checkout that this file lies in, whether it is installed or not."""
    for folder in ("benchmarks", "baselines", "plugins", "."):
        path = str(ROOT / folder)
        if path not in sys.path:
            sys.path.insert(0, path)


def make_registry() -> Registry:
    """What is installed; from a checkout that is not, the core and the plugins beside it."""
    from dfkd_bench.hooks.registry import PluginRow, Registry

    registry = Registry()
    if not registry.provided("method"):
        registry = Registry(())
        for name, module in PLUGINS.items():
            registry.add(importlib.import_module(module), PluginRow(name, "dfkd-bench", "checkout"))
    return registry


class TimeIsUp(KeyboardInterrupt):
    """The clock has rung; to a run that is what Ctrl-C is, after which it can be resumed."""


class Clock:
    """Stops by itself what would be stopped from outside.

    Args:
        minutes: from now.
    """

    def __init__(self, minutes: float) -> None:
        self._end = time.monotonic() + 60 * minutes

    @property
    def left(self) -> float:
        """Seconds; negative when it is over."""
        return self._end - time.monotonic()

    @contextmanager
    def stops(self, seconds: float | None = None) -> Iterator[None]:
        """Raise TimeIsUp inside after so many seconds, or at the end, whichever is first.

        Of the main thread alone; not nested.
        """

        def ring(*_: object) -> None:
            raise TimeIsUp

        left = self.left if seconds is None else min(seconds, self.left)
        if left <= 0:
            raise TimeIsUp
        before = signal.signal(signal.SIGALRM, ring)
        # Once more where the first was raised in a place that swallows it.
        signal.setitimer(signal.ITIMER_REAL, left, 5.0)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)


def shortened(
    request: Request,
    card: DatasetCard,
    registry: Registry,
    schedule: Mapping[str, Any],
    options: Mapping[str, Any],
) -> list[RunSpec]:
    """The runs of a request for one method, with this schedule, and these options in whichever of its stages has them.

    Raises:
        DfkdError: as planning does.
    """
    from dfkd_bench.hooks.registry import STAGE_KINDS
    from dfkd_bench.planning.requests import Override, plan

    plain = plan(request, card, registry)[0]
    overrides = [Override("schedule", name, value) for name, value in schedule.items()]
    if plain.schedule.initial_images is not None:
        overrides.append(Override("schedule", "initial_images", None))
    for kind in STAGE_KINDS:
        # An option that says "as the other" stays silent.
        known = {name for name, value in getattr(plain, kind).options.items() if value is not None}
        overrides += [Override(kind, name, value) for name, value in options.items() if name in known]
    return plan(type(request)(**{**vars(request), "overrides": overrides}), card, registry)


def out_folder(given: Path | None, name: str) -> Path:
    """`--out`, else `$OUT`, else a folder of this name here; made if it is not there."""
    out = given or Path(os.environ.get("OUT") or name)
    out.mkdir(parents=True, exist_ok=True)
    return out


def write(path: Path, content: Any) -> None:
    """JSON, whole or not at all."""
    from dfkd_bench.files import replacing

    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as they must be."""
    widths = [max(len(row[index]) for row in (head, *rows)) for index in range(len(head))]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )
