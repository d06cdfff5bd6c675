"""A stage's options: their base, and how values are read into a model of options. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, ValidationError, model_serializer

from dfkd_bench.errors import DfkdError, Report, nearest, raise_it
from dfkd_bench.foreign import check_plain, parse_json

__all__ = ["OptionError", "StageOptions", "read_options", "validated"]


class StageOptions(BaseModel):
    """Base of every stage's `Options`: unknown options are refused, each field has a one-line description.

    Class attributes:
        added: options that are younger than the first records. Specs leave them out where they have their defaults,
            so that the hashes of earlier runs stay what they were.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    added: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _as_ever(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = dump(self)
        fields = type(self).model_fields
        same = {name for name in self.added if getattr(self, name) == fields[name].default}
        return {name: value for name, value in plain.items() if name not in same}


class OptionError(DfkdError):
    """What was asked of one option, or of a whole part, cannot be.

    Args:
        sentence: what is wrong.
        part: a stage's kind, `schedule` or `teacher`.
        option: its option; None if it is about several.
    """

    def __init__(self, sentence: str, part: str, option: str | None = None) -> None:
        super().__init__(sentence)
        self.part, self.option = part, option


ModelT = TypeVar("ModelT", bound=BaseModel)


def validated(model: type[ModelT], values: Mapping[str, Any], owner: str, part: str) -> ModelT:
    """A model of options from values, some of them as text.

    Args:
        model: the pydantic model.
        values: fields by name.
        owner: what the fields belong to, for the error.
        part: the word before the dot in --set.

    Raises:
        DfkdError: a name is unknown, a value is refused or not finite, or a required one is missing.
    """
    found = read_options(model, values, owner, part, raise_it)
    assert found is not None  # whatever is wrong was raised
    return found


def read_options(
    model: type[ModelT], values: Mapping[str, Any], owner: str, part: str, report: Report
) -> ModelT | None:
    """As `validated`, but what is wrong goes to `report`; None if something was reported."""
    known = model.model_fields
    wrong: list[OptionError] = []
    for name in values:
        if name not in known:
            near = nearest(name, known) or sorted(known)
            hint = ", ".join(near) if near else "it has none"
            hint = f"did you mean {hint}?" if near else hint
            wrong.append(OptionError(f"the {owner} has no option '{name}': {hint}", part, name))
    found = None
    try:
        read = {name: _read(value, known[name].annotation) for name, value in values.items() if name in known}
        found = model.model_validate(read)
    except ValidationError as error:
        wrong += [_refusal(refused, values, owner, part) for refused in error.errors()]
    for name, value in found or ():
        problem = check_plain({name: value})
        if problem is not None:
            wrong.append(OptionError(f"the {owner} refuses {problem}", part, name))
    for one in wrong:
        report(one)
    return None if wrong else found


def _refusal(refused: Any, values: Mapping[str, Any], owner: str, part: str) -> OptionError:
    """What pydantic refused, as a sentence."""
    where = ".".join(str(step) for step in refused["loc"])
    option = str(refused["loc"][0]) if refused["loc"] else None
    if refused["type"] == "missing":
        return OptionError(f"the {owner} leaves '{where}' open: give it with --set {part}.{where}=VALUE", part, option)
    what = f"{where}={refused['input']}" if where else str(dict(values))
    return OptionError(f"the {owner} refuses {what}: {refused['msg']}", part, option)


def _read(value: Any, annotation: Any) -> Any:
    """A value from the command line: lists are JSON, `none` is no value where allowed, else pydantic reads it."""
    if not isinstance(value, str):
        return value
    if value.lower() == "none" and type(None) in get_args(annotation):
        return None
    if value.startswith(("[", "{")):
        try:
            return parse_json(value, "the value")
        except DfkdError:
            return value  # pydantic says what it wanted
    return value
