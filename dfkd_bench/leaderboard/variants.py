"""How rows of one method in one cell differ: a short text for each. Pure functions."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from dfkd_bench.spec import RunSpec

__all__ = ["variants"]

_STAGES = ("synthesizer", "augmenter", "filter", "distiller")

#: A row's spec, precision and code.
Setting = tuple[RunSpec, str, Mapping[str, str]]


def variants(rows: Sequence[Setting]) -> list[str]:
    """For each row of a cell what sets it apart from the others of its method; empty where there are no others.

    Such as `augmenter=classic, schedule.epochs=10, precision=fp32, dfkd-bench=0.2.0`: all that is not the same for all
    of them. Options of a stage are compared among rows that have that stage.
    """
    by_method: dict[str, list[int]] = defaultdict(list)
    for at, (spec, _, _) in enumerate(rows):
        by_method[spec.method].append(at)
    names = [""] * len(rows)
    for places in by_method.values():
        if len(places) > 1:
            for at, name in zip(places, _differences([_flat(*rows[at]) for at in places]), strict=True):
                names[at] = name
    return names


def _flat(spec: RunSpec, precision: str, code: Mapping[str, str]) -> dict[tuple[str, ...], Any]:
    """Every setting under a name of its own. An option's has its stage's name, too, which is not shown."""
    flat: dict[tuple[str, ...], Any] = {}
    for kind in _STAGES:
        stage = getattr(spec, kind)
        flat[(kind,)] = stage.name
        flat |= {(f"{kind}.{option}", stage.name): value for option, value in stage.options.items()}
    flat |= {(f"schedule.{name}",): value for name, value in spec.schedule.model_dump().items()}
    # Of one cell's teachers the weights are the same.
    flat[("teacher",)] = "given" if spec.teacher.recipe is None else spec.teacher.recipe.model_dump()
    flat[("precision",)] = precision
    return flat | {(package,): version for package, version in code.items()}


_ABSENT = object()


def _differences(rows: Sequence[dict[tuple[str, ...], Any]]) -> list[str]:
    settings = dict.fromkeys(name for row in rows for name in row)
    differing = []
    for name in settings:
        # An option counts among the rows with its stage; anything else among all of them, where absent is a value.
        values = [row.get(name, _ABSENT) for row in rows if len(name) == 1 or name in row]
        if any(value != values[0] for value in values[1:]):
            differing.append(name)
    return [", ".join(f"{name[0]}={_text(row[name])}" for name in differing if name in row) for row in rows]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
