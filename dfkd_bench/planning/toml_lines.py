"""TOML with the line of everything in it. `tomllib` reads, and a scanner of valid TOML says where each thing stands."""

from __future__ import annotations

import re
import tomllib
from typing import Any

from dfkd_bench.foreign import check_plain

__all__ = ["Path", "TomlError", "read"]

Path = tuple[str | int, ...]
"""Keys and, in arrays, indices from 0."""

_STRINGS = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}' r"|'''.*?'{3,5}" r'|"(?:[^"\\\n]|\\.)*"' r"|'[^'\n]*'",
    re.DOTALL,
)
_KEY = re.compile(r"""(?:"(?:[^"\\\n]|\\.)*"|'[^'\n]*'|[A-Za-z0-9_-]+|[ \t]*\.[ \t]*)+""")
_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SCALAR = re.compile(r"[^,\]}\n#]*")


class TomlError(ValueError):
    """The text is no TOML.

    Args:
        message: what is wrong.
        line: where, counted from 1.
    """

    def __init__(self, message: str, line: int) -> None:
        super().__init__(message)
        self.line = line


def read(text: str) -> tuple[dict[str, Any], dict[Path, int]]:
    """The content of a TOML text, and the line of each key and array element in it.

    Raises:
        TomlError: it is none.
    """
    try:
        content = tomllib.loads(text)
    except RecursionError as error:
        raise TomlError("its arrays or tables are nested too deep", 1) from error
    except tomllib.TOMLDecodeError as error:
        message, _, where = str(error).rpartition(" (at ")
        line = re.match(r"line (\d+)", where)
        # "at end of document" has no number.
        raise TomlError(message or str(error), int(line[1]) if line else max(len(text.splitlines()), 1)) from error
    except ValueError as error:  # Python reads no integer of thousands of digits
        raise TomlError("a number in it has too many digits", 1) from error
    problem = check_plain(content, numbers=False)  # those are the options' own affair
    if problem is not None:
        raise TomlError(problem, 1)
    return content, _Scanner(text.replace("\r\n", "\n")).lines


class _Scanner:
    """Walks through text that `tomllib` has accepted, so it need not look for mistakes."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.lines: dict[Path, int] = {}
        self._tables: dict[Path, int] = {}  # how many elements each array of tables has so far
        table: Path = ()
        self._skip()
        while self.at < len(text):
            if text.startswith("[[", self.at):
                table = self._header(2)
            elif text.startswith("[", self.at):
                table = self._header(1)
            else:
                self._pair(table)
            self._skip()

    def _skip(self) -> None:
        self.at = _end(_BLANK, self.text, self.at)

    def _mark(self, path: Path, at: int) -> None:
        self.lines.setdefault(path, self.text.count("\n", 0, at) + 1)

    def _key(self) -> tuple[str, ...]:
        """A dotted key; the cursor goes behind it."""
        self.at = _end(re.compile(r"[ \t]*"), self.text, self.at)
        end = _end(_KEY, self.text, self.at)
        nested = tomllib.loads(f"{self.text[self.at : end]} = 0")  # whatever is quoted or escaped in it
        self.at = _end(re.compile(r"[ \t]*"), self.text, end)
        parts: list[str] = []
        while isinstance(nested, dict):
            (part,) = nested
            parts.append(part)
            nested = nested[part]
        return tuple(parts)

    def _header(self, brackets: int) -> Path:
        start = self.at
        self.at += brackets
        *before, last = self._key()
        self.at += brackets
        path: Path = ()
        for part in before:
            path = (*path, part)
            self._mark(path, start)
            if path in self._tables:
                path = (*path, self._tables[path] - 1)
        path = (*path, last)
        self._mark(path, start)
        if brackets == 2:
            self._tables[path] = self._tables.get(path, 0) + 1
            path = (*path, self._tables[path] - 1)
            self._mark(path, start)
        elif path in self._tables:
            path = (*path, self._tables[path] - 1)
        return path

    def _pair(self, table: Path) -> None:
        start, path = self.at, table
        for part in self._key():
            path = (*path, part)
            self._mark(path, start)
        self.at += 1  # the equals sign
        self.at = _end(re.compile(r"[ \t]*"), self.text, self.at)
        self._value(path)

    def _value(self, path: Path) -> None:
        opening = self.text[self.at]
        if opening in "\"'":
            self.at = _end(_STRINGS, self.text, self.at)
        elif opening == "[":
            self._elements(path)
        elif opening == "{":
            self._inline(path)
        else:
            self.at = _end(_SCALAR, self.text, self.at)

    def _elements(self, path: Path) -> None:
        self.at += 1
        index = 0
        while True:
            self._skip()
            if self.text[self.at] == "]":
                break
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._mark((*path, index), self.at)
            self._value((*path, index))
            index += 1
        self.at += 1

    def _inline(self, path: Path) -> None:
        self.at += 1
        while True:
            self._skip()
            if self.text[self.at] == "}":
                break
            if self.text[self.at] == ",":
                self.at += 1
                continue
            self._pair(path)
        self.at += 1


def _end(pattern: re.Pattern[str], text: str, at: int) -> int:
    found = pattern.match(text, at)
    return at if found is None else found.end()
