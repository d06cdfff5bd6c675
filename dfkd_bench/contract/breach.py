"""What goes wrong in a check, and where in the plugin it does."""

from __future__ import annotations

import inspect
import traceback
from pathlib import Path
from typing import Any

from dfkd_bench.errors import DfkdError
from dfkd_bench.stages.base import BASES, Stage

__all__ = ["IMAGES", "RUNS", "UNTOUCHED", "Breach", "Skip", "location", "sentence_of"]

#: Checks that an episode itself answers.
RUNS = "comes through a run"
IMAGES = "images finite and in [0, 1]"
UNTOUCHED = "teacher and student untouched"


class Breach(Exception):  # noqa: N818 - a word of the contract
    """A stage did what the contract forbids; the text says what.

    Args:
        text: what it did.
        check: the check that asks for it; None: the one that is running.
        method: the stage's method that did it; None: the kind's main one.
    """

    def __init__(self, text: str, *, check: str | None = None, method: str | None = None) -> None:
        super().__init__(text)
        self.check, self.method = check, method


class Skip(Exception):  # noqa: N818 - an outcome, no error
    """A check does not apply; the text says why."""


def sentence_of(error: BaseException) -> str:
    """An error in one line, with its type unless it is a sentence already."""
    text = " ".join(str(error).split())
    if isinstance(error, Breach | DfkdError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def location(stage: type[Stage[Any]], error: BaseException) -> str:
    """FILE:LINE of the plugin: where the error came up in its code, else where the method in question begins."""
    classes = [each for each in stage.__mro__ if issubclass(each, Stage) and each not in (Stage, *BASES.values())]
    files = {inspect.getsourcefile(each) for each in classes} - {None}
    folders = {str(Path(str(file)).parent) for file in files}
    frames: list[traceback.FrameSummary] = []
    cause: BaseException | None = error
    while cause is not None:
        frames = traceback.extract_tb(cause.__traceback__) + frames
        cause = cause.__cause__
    inside = [frame for frame in frames if frame.filename in files]
    # A module beside the stage's is the plugin's, too.
    inside = [frame for frame in frames if str(Path(frame.filename).parent) in folders] if inside else []
    if inside:
        return f"{_short(inside[-1].filename)}:{inside[-1].lineno}"
    name = getattr(error, "method", None) or _main_method(stage)
    method = getattr(stage, name)
    if method in (getattr(base, name, None) for base in BASES.values()):
        method = stage  # not its own: its class is where to look
    try:
        file, (_, line) = inspect.getsourcefile(method), inspect.getsourcelines(method)
    except (OSError, TypeError):
        return ""  # typed into a console
    return f"{_short(str(file))}:{line}"


def _main_method(stage: type[Stage[Any]]) -> str:
    names = {"synthesizer": "synthesize", "augmenter": "augment", "filter": "keep", "distiller": "losses"}
    return next(name for kind, name in names.items() if issubclass(stage, BASES[kind]))


def _short(file: str) -> str:
    path = Path(file)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else file
