"""Pictures of runs in the page: embedded small, linked, or left out. Imports no torch."""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from urllib.parse import quote

from dfkd_bench.errors import DfkdError
from dfkd_bench.leaderboard.model import Run

__all__ = ["Picture", "Pictures", "finder"]

Picture = Callable[[Run], str | None]

#: Width of an embedded picture, in pixels.
_WIDTH = 438
#: A file of more pixels is not opened.
_MOST_PIXELS = 64_000_000


class Pictures(StrEnum):
    """What becomes of the pictures."""

    embed = "embed"
    link = "link"
    none = "none"


def finder(pictures: Pictures, root: Path, page: Path) -> Picture:
    """The function that gives a run's picture as an address for `<img src>`.

    Args:
        pictures: embedded as a data address, linked relative to the page, or never any.
        root: the results folder.
        page: the folder that the page will lie in.
    """
    if pictures is Pictures.none:
        return lambda run: None

    def find(run: Run) -> str | None:
        if run.images is None:
            return None
        # A record of a stranger names a file, and only one beside it is meant.
        path = root / run.folder / Path(run.images).name
        return _embedded(path) if pictures is Pictures.embed else quote(_relative(path, page))

    return find


def _relative(path: Path, page: Path) -> str:
    return os.path.relpath(path.resolve(), page.resolve()).replace(os.sep, "/")


def _embedded(path: Path) -> str:
    from PIL import Image

    try:
        with Image.open(path, formats=["PNG"]) as image:
            if image.width * image.height > _MOST_PIXELS:
                raise DfkdError(f"the picture {path} is not shown: it has more than {_MOST_PIXELS:,} pixels")
            small = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise DfkdError(f"the picture {path} cannot be shown ({type(error).__name__})") from error
    if small.width > _WIDTH:
        height = max(1, round(small.height * _WIDTH / small.width))
        small = small.resize((_WIDTH, height), Image.Resampling.LANCZOS)
    out = io.BytesIO()
    small.save(out, "WEBP", quality=75, method=4)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
