"""Pages of stages, networks, datasets, recipes, records and columns, from the code that defines them."""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from markdown import docstring, inline, table
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from dfkd_bench.card import DatasetCard, TeacherRecipe, TrainTransform
from dfkd_bench.hooks.registry import STAGE_KINDS, Registry, StageKind
from dfkd_bench.leaderboard.columns import document
from dfkd_bench.method import Method, Preset, Schedule, StageChoice
from dfkd_bench.planning.description import option_rows
from dfkd_bench.results.curves import CurvePoint
from dfkd_bench.results.records import Accuracy, BankReport, Cost, Environment, Record, TeacherReport
from dfkd_bench.spec import RunSpec

__all__ = ["pages"]

_STAGES = {
    "synthesizer": "Synthesizers make images from the teacher.",
    "augmenter": "Augmenters make variants of synthesized images. `--augmenter NAME` puts one into any method.",
    "filter": "Filters decide which variants are kept. `--filter NAME` puts one into any method; `a+b` joins two.",
    "distiller": "Distillers give the student's loss. `--distiller NAME` puts one into any method.",
}


def pages(registry: Registry) -> dict[str, str]:
    """Pages by their path below `docs/generated/`."""
    return {
        **{f"stages/{kind}s.md": _stages(kind, registry) for kind in STAGE_KINDS},
        "networks-and-datasets.md": _listings(registry),
        "recipes.md": _recipes(),
        "record.md": _record(),
    }


def _stages(kind: StageKind, registry: Registry) -> str:
    lines = [f"# {kind.capitalize()}s\n", _STAGES[kind] + "\n"]
    for name, item in registry.provided(kind).items():
        stage = registry.load(kind, name)
        needs = ", ".join(sorted(stage.requires)) or "nothing"
        lines += [
            f"## {name}\n",
            docstring(stage) + "\n",
            f"Plugin `{item.plugin}`; prior: {stage.prior}; requires: {needs} (options may change both).\n",
        ]
        rows = [
            (f"`{kind}.{row.name}`", inline(row.default), inline(row.meaning)) for row in option_rows(stage.Options, {})
        ]
        lines.append(table(("Option", "Default", "Meaning"), rows) if rows else "No options.\n")
    return "\n".join(lines)


def _listings(registry: Registry) -> str:
    cards = [(name, item.card) for name, item in registry.provided("dataset").items() if item.card is not None]
    datasets = [
        (f"`{name}`", inline(card.summary), str(card.num_classes), " x ".join(map(str, card.image_shape)))
        for name, card in cards
    ]
    networks: dict[str, list[str]] = {}
    for name, item in registry.provided("model").items():
        networks.setdefault(item.plugin, []).append(f"`{name}`")
    return "\n".join(
        [
            "# Networks and datasets\n",
            "## Datasets\n",
            table(("Name", "What it is", "Classes", "Channels x height x width"), datasets),
            "A folder of your own is `folder:PATH`, with `train/` and `test/`.\n",
            "## Networks\n",
            "A pair is written `TEACHER:STUDENT`. Any network of timm is `timm/NAME`.\n",
            table(("Plugin", "Networks"), [(plugin, ", ".join(names)) for plugin, names in networks.items()]),
        ]
    )


def _recipes() -> str:
    models = (Method, Preset, StageChoice, Schedule, DatasetCard, TrainTransform, TeacherRecipe)
    lines = [
        "# Recipes and cards\n",
        "The plain data that plugins register. `from dfkd_bench import Method, Preset`.\n",
    ]
    return "\n".join(lines + [_fields(model) for model in models])


def _record() -> str:
    models = (Record, RunSpec, Accuracy, TeacherReport, BankReport, Environment)
    cost = [(f"`{name}`", f"`{_type(kind)}`") for name, kind in get_type_hints(Cost).items()]
    return "\n".join(
        [
            "# Records and tables\n",
            "A run's folder holds `record.json` and `curve.csv`; `leaderboard.csv` has each row of the table.\n",
            *(_fields(model) for model in models),
            f"## Cost\n\n{docstring(Cost)}\n\n{table(('Field', 'Type'), cost)}",
            _fields(CurvePoint, "Lines of curve.csv"),
            "## Columns of leaderboard.csv\n\nHow to read them: [the columns](/leaderboard-columns.md).\n",
            document(),
        ]
    )


def _fields(model: type[BaseModel], title: str | None = None) -> str:
    rows = [
        (f"`{name}`", f"`{_type(info.annotation)}`", _default(info), inline(info.description or ""))
        for name, info in model.model_fields.items()
    ]
    head = ("Field", "Type", "Default", "Meaning")
    described = len(head) if any(row[-1] for row in rows) else len(head) - 1
    fields = table(head[:described], [row[:described] for row in rows])
    return f"## {title or model.__name__}\n\n{docstring(model)}\n\n{fields}"


def _default(info: Any) -> str:
    if info.is_required():
        return "(required)"
    if info.default is PydanticUndefined:
        return "(empty)"
    return "none" if info.default is None else inline(_shown(info.default))


def _shown(value: object) -> str:
    # A model or a list of them would fill the cell.
    text = str(value)
    return text if len(text) <= 40 and text else "(empty)" if not value else "(see below)"


def _type(annotation: Any) -> str:
    """A type as a reader would write it."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " | ".join(map(_type, inner))
    if origin is Literal:
        return " | ".join(map(repr, inner))
    if hasattr(annotation, "__metadata__") or str(origin).startswith("typing"):
        return _type(inner[0])
    if origin is not None:
        return f"{origin.__name__}[{', '.join(_type_in(inner))}]"
    if annotation is type(None):
        return "None"
    return getattr(annotation, "__name__", str(annotation))


def _type_in(inner: Sequence[Any]) -> list[str]:
    return ["..." if each is Ellipsis else _type(each) for each in inner]
