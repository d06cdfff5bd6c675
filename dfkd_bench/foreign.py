"""Files that people or other programs may have written: read in one way, or refused in one sentence.

A regular file of bounded size; text in UTF-8, with or without a byte order mark; JSON of bounded depth whose numbers
are finite and of a size that arithmetic bears. Whatever else is found is a `DfkdError` that names the file and, where
there is one, the field. Imports no torch.
"""

from __future__ import annotations

import codecs
import json
import math
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from pydantic import BaseModel, Field, ValidationError

from dfkd_bench.errors import DfkdError, first_line

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "Count",
    "Number",
    "check_plain",
    "check_regular",
    "own_path",
    "parse_json",
    "parse_model",
    "read_bytes",
    "read_json",
    "read_model",
    "read_tensors",
    "read_text",
    "refusal",
]

_MOST_BYTES = 16 * 2**20
_MOST_TENSOR_BYTES = 64 * 2**30
_MOST_DEPTH = 100
_LARGEST = 1e100
_LONGEST_PATH = 4096
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
}

#: Finite, and so small that squares and sums of it are finite, too.
Number = Annotated[float, Field(allow_inf_nan=False, ge=-_LARGEST, le=_LARGEST)]
Count = Annotated[int, Field(ge=0, le=10**100)]

ModelT = TypeVar("ModelT", bound=BaseModel)


class _RefusedError(ValueError):
    """Why content is refused; the file's name is added by who knows it."""


# --- files ----------------------------------------------------------------------------------------------------------


def check_regular(path: Path | str) -> None:
    """Refuse what is not a file with bytes in it.

    Raises:
        FileNotFoundError: nothing is there.
        DfkdError: it is a folder, a device, a pipe or a loop of links, or may not be read.
    """
    try:
        found = os.stat(path)  # noqa: PTH116 - a text, too
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    _check_kind(path, found)


def read_bytes(path: Path | str, most: int = _MOST_BYTES) -> bytes:
    """The content of a regular file.

    Args:
        path: the file.
        most: how many bytes it may have.

    Raises:
        FileNotFoundError: nothing is there.
        DfkdError: it is no regular file, is larger, or cannot be read.
    """
    try:
        # Not to wait at a pipe for who writes into it.
        number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(number)
            _check_kind(path, found)
            if found.st_size > most:
                raise DfkdError(f"cannot read {path}: it has {found.st_size:,} bytes, and at most {most:,} are read")
            return _content(number, found.st_size)
        finally:
            os.close(number)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error


def _content(number: int, size: int) -> bytes:
    # Python's file objects ask the system twice as often, which counts where there are 100,000 files.
    portions = [os.read(number, size + 1)]
    if len(portions[0]) != size:  # it grew, or the system gave less than it has
        while portions[-1]:
            portions.append(os.read(number, 2**20))
    return b"".join(portions)


def read_text(path: Path | str, most: int = _MOST_BYTES) -> str:
    """The content of a regular file as text; a byte order mark at its begin is dropped.

    Raises:
        FileNotFoundError: nothing is there.
        DfkdError: as for `read_bytes`, or it is not in UTF-8.
    """
    try:
        return read_bytes(path, most).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DfkdError(f"{path} is no text in UTF-8 (byte {error.start}): save it as UTF-8") from error


def own_path(text: str, beside: Path | None = None) -> Path:
    """A path that a user wrote, with `~` read as a shell does; it need not exist.

    Args:
        text: what was written.
        beside: the folder from which a relative path starts; by default the present one.

    Raises:
        DfkdError: there can be no such path: a user whom nobody knows, a loop of links, too many letters.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DfkdError(f"the path {text} is not in UTF-8, and no record could name it: rename the folder") from error
    if len(text) > _LONGEST_PATH or "\0" in text:
        raise DfkdError(f"{text} can be no path: it is too long or holds a zero byte")
    try:
        path = (beside or Path()) / Path(text).expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "there is no such user"
        raise DfkdError(f"the path {text} leads nowhere ({reason}): fix it") from error
    return path


def _check_kind(path: Path | str, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise DfkdError(f"cannot read {path}: it is {kind}, not a file")


def _unreadable(path: Path | str, error: Exception) -> DfkdError:
    return DfkdError(f"cannot read {path} ({getattr(error, 'strerror', None) or first_line(error)})")


def read_tensors(
    path: Path | str, names: Sequence[str], most: int = _MOST_TENSOR_BYTES
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors of a safetensors file by name, on the CPU, and the texts that stand beside them.

    Args:
        path: the file.
        names: of the tensors that it must have; others are not read.
        most: how many bytes it may have.

    Raises:
        FileNotFoundError: nothing is there.
        DfkdError: it is no regular file, is larger, is no safetensors file, lacks a tensor, or one holds a number that
            is not finite.
    """
    from safetensors import SafetensorError, safe_open

    check_regular(path)
    size = os.stat(path).st_size  # noqa: PTH116 - a text, too
    if size > most:
        raise DfkdError(f"cannot read {path}: it has {size:,} bytes, and at most {most:,} are read")
    try:
        with safe_open(path, framework="pt") as stored:
            lacking = [name for name in names if name not in stored.keys()]  # noqa: SIM118 - it is no dict
            if lacking:
                raise DfkdError(f"{path} has no tensor '{lacking[0]}': give a file that has")
            tensors = {name: stored.get_tensor(name) for name in names}
            texts: dict[str, str] = stored.metadata() or {}
    except SafetensorError as error:
        raise DfkdError(f"{path} is no safetensors file ({first_line(error)}): write it again") from error
    except (OSError, ValueError) as error:
        raise _unreadable(path, error) from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            raise DfkdError(f"{path}: the tensor '{name}' holds numbers that are not finite: write it again")
    return tensors, texts


# --- content --------------------------------------------------------------------------------------------------------


def parse_json(text: bytes | str, where: str) -> Any:
    """The content of a JSON text.

    Args:
        text: it.
        where: what the error calls it.

    Raises:
        DfkdError: it is no JSON in UTF-8, is nested too deep, or holds a number that is not finite or too large.
    """
    try:
        return _loads(text)
    except _RefusedError as error:
        raise DfkdError(f"{where} cannot be used ({error}): fix it") from error


def check_plain(value: Any, *, numbers: bool = True) -> str | None:
    """What is wrong with plain data, with the place: its depth or, if `numbers`, a number; None if nothing is."""
    try:
        if numbers:
            _check_number((), value)
        keys: list[Any] = []
        levels = [_items(value)]
        while levels:
            for key, inner in levels[-1]:
                if numbers:
                    _check_number((*keys, key), inner)
                if isinstance(inner, dict | list | tuple):
                    if len(levels) >= _MOST_DEPTH:
                        raise _RefusedError(f"{_place(keys[:1])}: nested more than {_MOST_DEPTH} deep")
                    keys.append(key)
                    levels.append(_items(inner))
                    break
            else:
                levels.pop()
                del keys[len(levels) - 1 :]
    except _RefusedError as error:
        return str(error)
    return None


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        FileNotFoundError: nothing is there.
        DfkdError: as for `read_bytes` and `parse_json`.
    """
    return parse_json(read_bytes(path), str(path))


def parse_model(model: type[ModelT], text: bytes, path: Path | str, what: str, remedy: str) -> ModelT:
    """A pydantic model from a JSON file's text.

    Args:
        model: the model.
        text: the text.
        path: the file, for the error.
        what: what it should hold, for the error.
        remedy: what to do, for the error.

    Raises:
        DfkdError: it holds none; the sentence names the file and the first field that is wrong.
    """
    try:
        if _is_suspect(text):
            _loads(text)
        return model.model_validate_json(text.removeprefix(codecs.BOM_UTF8))
    except ValidationError as error:
        raise refusal(error, path, what, remedy) from error
    except _RefusedError as error:
        raise DfkdError(f"{path} is no valid {what} ({error}): {remedy}") from error


def read_model(model: type[ModelT], path: Path, what: str, remedy: str) -> ModelT:
    """A pydantic model from a JSON file; see `parse_model`.

    Raises:
        FileNotFoundError: nothing is there.
        DfkdError: it cannot be read, or holds no such model.
    """
    return parse_model(model, read_bytes(path), path, what, remedy)


def refusal(error: ValidationError, path: Path | str, what: str, remedy: str) -> DfkdError:
    """The sentence about what pydantic refused in a file."""
    first = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, first["loc"]))
    reason = first["msg"].removeprefix("Value error, ")
    return DfkdError(f"{path} is no valid {what} ({f'{where}: {reason}' if where else reason}): {remedy}")


_DIGITS = bytes.maketrans(b"123456789", b"000000000")


def _is_suspect(text: bytes) -> bool:
    """Whether JSON may hold what our models do not refuse where anything may stand: a look at each value takes time."""
    return b"NaN" in text or b"Infinity" in text or b"0" * 19 in text.translate(_DIGITS)


def _loads(text: bytes | str) -> Any:
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8-sig")
        found = json.loads(text, parse_int=_whole)
    except RecursionError:
        raise _RefusedError(f"its JSON is nested more than {_MOST_DEPTH} deep") from None
    except UnicodeDecodeError as error:
        raise _RefusedError(f"byte {error.start} is not UTF-8") from error
    except ValueError as error:
        raise _RefusedError(f"Invalid JSON: {first_line(error)}") from error
    problem = check_plain(found)
    if problem is not None:
        raise _RefusedError(problem)
    return found


def _whole(digits: str) -> float:
    # Python refuses integers of thousands of digits with advice that is no user's.
    return int(digits) if len(digits) <= 200 else math.inf


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    if isinstance(value, dict):
        return iter(value.items())
    return iter(enumerate(value)) if isinstance(value, list | tuple) else iter(())


def _place(keys: Any) -> str:
    return ".".join(map(str, keys)) or "its content"


def _check_number(keys: tuple[Any, ...], value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise _RefusedError(f"{_place(keys)}={value}: it is not finite")
    if isinstance(value, int | float) and abs(value) > _LARGEST:
        raise _RefusedError(f"{_place(keys)}: a number of such a size is no value")
