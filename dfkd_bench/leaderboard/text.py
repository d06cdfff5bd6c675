"""Numbers and strangers' words as text that every form can show. Pure functions."""

from __future__ import annotations

from dfkd_bench.texts import visible

__all__ = ["amount", "number", "plain", "signed"]

#: No text from a record is shown longer than this; the record has the whole.
LONGEST = 300


def plain(text: str, longest: int = LONGEST) -> str:
    """One line of printable characters, cut after `longest` of them.

    White space becomes single spaces, and what cannot be printed its escape (`texts.visible`): no text from a record
    moves the cursor, colors a terminal, breaks a line of a table or turns the direction of writing.
    """
    cut = text[: longest + 1] if len(text) > 4 * longest else text
    shown = visible(" ".join(cut.split()))
    if len(shown) <= longest and cut is text:
        return shown
    return shown[: longest - 1].rstrip() + "…"


def number(value: float | None, digits: int = 2) -> str:
    """With so many decimals; `-` for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 2) -> str:
    """With its sign, zero as `0`; `-` for None."""
    if value is None:
        return "-"
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text


_PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")


def amount(value: float | None, base: float = 1000.0) -> str:
    """Three significant digits with a prefix, such as `47.1 T`; `-` for None. With `base` 1024 as `1.01 Gi`."""
    if value is None:
        return "-"
    power = 0
    while value >= base * 0.9995 and power < len(_PREFIXES) - 1:
        value, power = value / base, power + 1
    digits = 0 if power == 0 and value == int(value) else max(0, 2 - (value >= 9.995) - (value >= 99.95))
    prefix = _PREFIXES[power] + ("i" if base == 1024 and power else "")
    return f"{value:.{digits}f} {prefix}".rstrip()
