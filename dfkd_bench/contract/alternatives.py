"""Other values that an option could have, and smaller ones where its name says that it is a matter of cost."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from dfkd_bench.contract.world import BATCH
from dfkd_bench.stages.options import StageOptions

__all__ = ["alternatives", "changed", "shrunk"]

#: A word of an option's name, and the most that the kit lets such an integer be.
_SMALL = {"steps": 3, "batch": BATCH, "loops": 2, "rounds": 2, "dim": 16, "width": 16, "negatives": 8, "epochs": 2}


def changed(options: StageOptions, **values: Any) -> StageOptions | None:
    """The options with other values, or None where the options refuse them."""
    try:
        return type(options).model_validate({**options.model_dump(), **values})
    except ValidationError:
        return None


def shrunk(options: StageOptions) -> StageOptions:
    """The options with small counts of steps and images: integers whose names say so, and lists of channels."""
    small: dict[str, Any] = {}
    for name, value in options:
        words = name.split("_")
        most = min((limit for word, limit in _SMALL.items() if word in words), default=None)
        if most is not None and isinstance(value, int) and not isinstance(value, bool) and value > most:
            small[name] = most
        elif name == "channels" and isinstance(value, tuple):
            small[name] = tuple(min(int(each), 8) for each in value)
    for name, value in small.items():
        options = changed(options, **{name: value}) or options
    return options


def alternatives(options: StageOptions, name: str) -> Iterator[StageOptions]:
    """The options with other values of `name`: the field's `examples` if it gives some, else made up by its type.

    A text that is free cannot be made up; nothing comes out for it.
    """
    field = type(options).model_fields[name]
    value = getattr(options, name)
    tried = [value]
    for other in field.examples or _made_up(field, value):
        if other in tried and isinstance(other, bool) == isinstance(value, bool):
            continue
        tried.append(other)
        candidate = changed(options, **{name: other})
        if candidate is not None:
            yield candidate


def _made_up(field: FieldInfo, value: Any) -> list[Any]:
    kinds = _kinds(field.annotation)
    if str in kinds:
        return []
    found: list[Any] = []
    for kind in kinds:
        if get_origin(kind) is Literal:
            found += [choice for choice in get_args(kind) if choice != value]
        elif kind is bool:
            found += [True, False]
        elif kind is int:
            near = [] if not isinstance(value, int) else [value // 2, value + 1]
            found += [number for number in (*near, 1, 2, 3, 0, 5, 8) if number != value]
        elif kind is float:
            close: list[float] = [] if not isinstance(value, int | float) else [value / 2, value * 2]
            found += [number for number in (*close, 1.0, 0.5, 0.1, 0.9, 10.0, 0.0, 2.0) if number != value]
        elif kind is type(None):
            found += [None] if value is not None else []
        elif get_origin(kind) is tuple and isinstance(value, tuple):
            found += [tuple(each // 2 if isinstance(each, int) else each / 2 for each in value), value[:-1]]
            found.append(tuple(2 * each if isinstance(each, int) else each / 3 for each in value))
    return found


def _kinds(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (typing.Union, types.UnionType):
        return get_args(annotation)
    return (annotation,)
