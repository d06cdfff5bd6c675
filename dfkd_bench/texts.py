"""Text that others wrote, made fit to be shown and to be written into a file. Imports no torch."""

from __future__ import annotations

import unicodedata

__all__ = ["brief", "encodable", "message", "visible"]

_MOST = 2000


def visible(text: str) -> str:
    """The text with each character that cannot be printed as its escape, such as `\\x1b`; spaces stay.

    Controls move the cursor, color the screen or set its title; formats turn the direction of writing; lone surrogates
    cannot be encoded; private and unassigned characters show as anything. Line breaks and tabs are escapes, too.
    """
    if text.isprintable():
        return text
    return "".join(one if _is_shown(one) else one.encode("unicode_escape").decode() for one in text)


def _is_shown(character: str) -> bool:
    return character.isprintable() or unicodedata.category(character) == "Zs"


def brief(text: str, most: int = _MOST) -> str:
    """The text with at most about `most` characters: from the middle of a longer one the rest is left out."""
    if len(text) <= most:
        return text
    # An error says at its end what to do.
    begin, end = most - most // 3, most // 3
    return f"{text[:begin]} [... {len(text) - begin - end:,} characters ...] {text[-end:]}"


def encodable(text: str) -> str:
    """The text with lone surrogates as escapes, so that it can be written as UTF-8; all else stays."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def message(error: BaseException) -> str:
    """What an exception says, on one line; one that cannot even say that says nothing."""
    try:
        return encodable(" ".join(str(error).split()))
    except Exception:  # a stranger's `__str__`
        return ""
