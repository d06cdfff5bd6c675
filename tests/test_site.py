"""The documentation: its examples run, the site is built without a warning, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
from support.e2e_kit import own_cache, program, teacher_file, write_distribution  # noqa: F401

from dfkd_bench.hooks.registry import STAGE_KINDS, default_registry

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
TUTORIAL = (DOCS / "tutorial.md").read_text(encoding="utf-8")
# Its code blocks begin with the name of their file.
FILES = dict(re.findall(r"```(?:python|toml)\n# (\S+)\n(.*?)```", TUTORIAL, re.DOTALL))


@pytest.mark.parametrize("page", sorted((DOCS / "reference").glob("*.md")), ids=lambda page: page.stem)
def test_the_examples_of_the_reference_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        exec(compile(example, page, "exec"), names)


def test_every_block_is_documented_with_an_example() -> None:
    text = (DOCS / "reference" / "blocks.md").read_text(encoding="utf-8")
    modules = [path.stem for path in (ROOT / "dfkd_bench" / "blocks").glob("[!_]*.py")]
    for module in modules:
        assert f".. automodule:: dfkd_bench.blocks.{module}\n" in text, module
        assert f"from dfkd_bench.blocks.{module} import" in text, module


def test_the_tutorials_method_is_thirty_lines() -> None:
    lines = [line for line in FILES["coarse.py"].splitlines() if line.strip()]
    assert len(lines) <= 33  # with its imports


TOUR = """
import os, sys
import pytest
os.chdir(sys.argv[1])
assert pytest.main(["-q", "-n0", "-p", "no:cacheprovider", "test_coarse.py"]) == 0
from dfkd_bench.cli import app
app(["run", "--grid", "coarse.toml", "--device", "cpu"], standalone_mode=False)
app(["leaderboard", "--form", "markdown"], standalone_mode=False)
"""
LESS = """
[schedule]
epochs = 1
steps_per_epoch = 2
batch_size = 8

[teachers.digits]
resnet8 = "{teacher}"
"""


@pytest.mark.slow
def test_the_tutorial_is_followed_to_its_row(tmp_path: Path) -> None:
    write_distribution(tmp_path, "coarse-images", "0.1.0", {"coarse": FILES["coarse.py"]}, {"coarse": "coarse"})
    assert 'coarse = "coarse"' in FILES["pyproject.toml"]
    (tmp_path / "test_coarse.py").write_text(FILES["test_coarse.py"], encoding="utf-8")
    # With the settings that are commented out there, too.
    grid = re.sub("^# (?!The same)", "", FILES["coarse.toml"], flags=re.MULTILINE)
    grid = grid.replace("seeds = 3", "seeds = 1").replace("steps = 180", "steps = 2")
    (tmp_path / "coarse.toml").write_text(grid + LESS.format(teacher=teacher_file()), encoding="utf-8")
    done = program(tmp_path, path=tmp_path, code=TOUR, timeout=300)
    assert done.code == 0, done
    assert "2 passed" in done.out
    # The row that the page shows is that of such a table, whatever its numbers.
    shown = [line for line in TUTORIAL.splitlines() if line.startswith("| ")]
    made = [line for line in done.out.splitlines() if line.startswith("| ")]
    assert shown[0] == made[0]
    for method in ("coarse", "noise"):
        assert any(method in line for line in shown)
        assert any(method in line for line in made)


class Links(HTMLParser):
    """Where a page's links and pictures lead, and the anchors that it has."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors: set[str] = {""}
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name in ("href", "src") and value is not None:
                self.targets.append(value)
            elif name == "id" and value is not None:
                self.anchors.add(value)


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_its_links_lead_somewhere(tmp_path: Path) -> None:
    pytest.importorskip("furo", reason="the site needs the extra `docs`")
    site = tmp_path / "site"
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", DOCS, site]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    registry = default_registry()
    for method in registry.provided("method"):
        text = (site / "generated" / "methods" / f"{method}.html").read_text(encoding="utf-8")
        assert registry.load("method", method).synthesizer.name in text
    for kind in STAGE_KINDS:
        text = (site / "generated" / "stages" / f"{kind}s.html").read_text(encoding="utf-8")
        assert all(f">{name}<" in text for name in registry.provided(kind))
    pages = {path.resolve(): Links(path) for path in site.rglob("*.html")}
    for page, links in pages.items():
        for target in links.targets:
            if re.match(r"[a-z]+:", target):
                continue
            assert not target.startswith("/"), (page, target)  # it works from disk
            path, _, anchor = unquote(target).partition("#")
            place = (page.parent / path.partition("?")[0]).resolve() if path else page
            assert place.exists(), (page, target)
            if place in pages and anchor:
                assert anchor in pages[place].anchors, (page, target)
