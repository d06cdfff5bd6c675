"""Text that others wrote, made fit to be shown and to be written into a file. Imports no torch."""

from __future__ import annotations

import re

__all__ = ["brief", "encodable", "message", "visible"]

# Control characters move the cursor, color the screen or set its title; marks of direction reorder what stands there;
# a surrogate alone cannot be encoded.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_MOST = 2000


def _escape(found: re.Match[str]) -> str:
    one = found[0]
    code = ord(one)
    return _SHORT.get(one) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def visible(text: str) -> str:
    """The text with each control character, mark of direction and lone surrogate as its escape, such as `\\x1b`."""
    return _UNSEEN.sub(_escape, text)


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
