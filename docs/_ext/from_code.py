"""Sphinx extension: pages made from what the package says of itself, written into `docs/generated/` before the build.

Methods, stages and datasets are those of the registry, so an installed plugin has its pages, too.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import command_pages
import method_pages
import reference_pages
from markdown import escaped

from dfkd_bench.hooks.registry import default_registry

__all__ = ["setup"]

_ROOT = Path(__file__).parents[2]
_LINK = re.compile(r"(?<!!)\[([^\]]*)\]\(([^)#\s]+)(#[^)\s]*)?\)")
_SPECIAL = re.compile(r"([|*\\]|(?<=\w)_(?!\w))")


def pages() -> dict[str, str]:
    """Every page by its path below `docs/generated/`."""
    registry = default_registry()
    return {
        **method_pages.pages(registry),
        **reference_pages.pages(registry),
        "commands.md": command_pages.page(),
        "contributing.md": on_site((_ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), _ROOT),
        "changelog.md": on_site((_ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), _ROOT),
    }


def on_site(text: str, folder: Path) -> str:
    """A page of the repository as one of the site: links to what the site does not have are their text alone."""

    def link(found: re.Match[str]) -> str:
        label, target, anchor = found[1], found[2], found[3] or ""
        path = (folder / target).resolve()
        if "://" in target or not path.is_relative_to(_ROOT):
            return found[0]
        if path in (_ROOT / "CHANGELOG.md", _ROOT / "CONTRIBUTING.md"):
            return f"[{label}](/generated/{path.name.lower()}{anchor})"
        docs = _ROOT / "docs"
        return f"[{label}](/{path.relative_to(docs).as_posix()}{anchor})" if path.is_relative_to(docs) else label

    return _LINK.sub(link, text)


def read(app: Any, page: str, source: list[str]) -> None:
    """Called with the text of each page."""
    source[0] = on_site(source[0], (Path(app.srcdir) / page).parent)


def write(app: Any) -> None:
    """Write the pages that changed, and remove those that are none any more."""
    folder = Path(app.srcdir) / "generated"
    made = pages()
    for name, text in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
    for path in folder.rglob("*.md"):
        if path.relative_to(folder).as_posix() not in made:
            path.unlink()


def plain_docstring(app: Any, what: str, name: str, thing: object, options: Any, lines: list[str]) -> None:
    """Docstrings are plain text with `code` in it: what reStructuredText would take for markup is escaped."""
    lines[:] = [escaped(line, lambda part: _SPECIAL.sub(r"\\\1", part)) for line in lines]


def setup(app: Any) -> dict[str, Any]:
    """Called by Sphinx."""
    app.connect("builder-inited", write)
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", plain_docstring, priority=1)  # before Google's sections are read
    return {"parallel_read_safe": True, "parallel_write_safe": True}
