"""The commands of the README and of the docs, and the plugin of the docs, are run as they stand."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest
from support.e2e_kit import cli, own_cache  # noqa: F401

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
PROGRAM = Path(sys.executable).parent / "dfkd-bench"
TINY = (
    "--set=schedule.epochs=1",
    "--set=schedule.steps_per_epoch=2",
    "--set=schedule.batch_size=8",
    "--set=synthesizer.batch_size=8",
)


def blocks(language: str, *pages: Path) -> list[str]:
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages or PAGES)
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def with_variables(lines: list[str]) -> list[str]:
    """The lines with the variables that earlier ones set put in."""
    values, filled = dict[str, str](), []
    for line in lines:
        if set_here := re.fullmatch(r"(\w+)='(.*)'", line):
            values[set_here[1]] = set_here[2]
        else:
            filled.append(re.sub(r"\$(\w+)", lambda name: values.get(name[1], name[0]), line))
    return filled


def chains(*pages: Path) -> list[list[list[str]]]:
    """Each line of the shell blocks, as the commands that `&&` joins."""
    lines = with_variables("\n".join(blocks("bash", *pages)).replace("\\\n", " ").splitlines())
    words = [shlex.split(line, comments=True) for line in lines]
    split = [[list(part) for end, part in groupby(line, "&&".__eq__) if not end] for line in words]
    return [chain for chain in split if chain]


def commands(*pages: Path) -> list[list[str]]:
    every = [command for chain in chains(*pages) for command in chain]
    return [command[1:] for command in every if Path(command[0]).name == "dfkd-bench"]


def program(*arguments: str, folder: Path, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    inherited = os.environ.get("PYTHONPATH")
    search = os.pathsep.join(str(place) for place in (path, inherited) if place)
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache"), "PYTHONPATH": search}
    return subprocess.run(
        [PROGRAM, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=1800, check=False
    )


# Those with DATA need the real images.
@pytest.mark.parametrize("words", [c for c in commands() if c[0] == "run" and "DATA" not in c], ids=" ".join)
def test_every_run_of_the_readme_can_be_planned(words: list[str], tmp_path: Path, monkeypatch, own_cache) -> None:  # noqa: F811
    words = [str(ROOT / word) if word.startswith("docs/") else word for word in words]
    monkeypatch.chdir(tmp_path)
    done = cli(*words, "--dry-run")
    assert done.code == 0, done.err
    assert "to do" in done.out


def test_the_readme_starts_with_two_commands_complete_in_themselves() -> None:
    first, second, *_ = chains(README)
    assert first[0] == second[0] == ["python3", "-m", "venv", ".venv"]
    assert first[1:-1] == [[".venv/bin/pip", "install", "-e", "."]]
    assert first[-1][0] == ".venv/bin/dfkd-bench"
    assert second[1:] == [[".venv/bin/pip", "install", "-e", ".[test]"], [".venv/bin/pytest"]]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    headings = {
        re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("#"):
            assert target[1:] in headings, target
        elif "://" not in target:
            assert (page.parent / target.partition("#")[0]).exists(), target


def test_the_readme_names_commands_and_options_that_exist() -> None:
    for words in commands():
        names = [word for word in words if re.fullmatch("[a-z]+", word)][: 2 if words[0] == "teacher" else 1]
        shown = cli(*names, "--help")
        assert shown.code == 0, words
        for option in (word.partition("=")[0] for word in words if word.startswith("--")):
            assert option in shown.out, (option, words)


@pytest.mark.long
def test_the_reduced_cifar_command_runs_on_real_images(tmp_path: Path) -> None:
    data = os.environ.get("DFKD_BENCH_DATA")
    if data is None:
        pytest.skip("DFKD_BENCH_DATA does not name a folder with the real images")
    (words,) = [c for c in commands() if "TEACHER.pth" in c]
    places = {"DATA": data, "TEACHER.pth": f"{data}/teachers/cifar10_wrn40_2.pth"}
    smaller = ("--set=synthesizer.steps=2", *TINY)
    done = program(*[places.get(word, word) for word in words], *smaller, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "results" / "leaderboard.csv").exists()
    (path,) = (tmp_path / "results").glob("*/record.json")
    # The teacher is in the layout of the published checkpoints; its accuracy is known.
    assert json.loads(path.read_bytes())["teacher"]["accuracy"] == pytest.approx(90.42, abs=0.1)


def test_the_plugin_of_the_docs_runs_as_an_installed_package(tmp_path: Path) -> None:
    site = tmp_path / "site"
    information = site / "my_method-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-method\nVersion: 1.0\n", encoding="utf-8")
    (entry,) = re.findall(r'^(my_method) = "(my_method)"', "\n".join(blocks("toml")), flags=re.MULTILINE)
    (information / "entry_points.txt").write_text(f"[dfkd_bench]\n{entry[0]} = {entry[1]}\n", encoding="utf-8")
    source = next(block for block in blocks("python") if block.startswith("# my_method.py"))
    assert len(source.splitlines()) <= 45
    (site / "my_method.py").write_text(source, encoding="utf-8")
    run = ("run", "--method", "ascent", "--pair", "wrn16_1:wrn16_1", *TINY, "--set=synthesizer.steps=2")
    done = program(*run, folder=tmp_path, path=site)
    assert done.returncode == 0, done.stderr
    assert "ascent" in done.stdout
    assert len(list((tmp_path / "results").glob("*/record.json"))) == 1


@pytest.mark.long
def test_the_first_command_of_the_readme_keeps_its_promises(tmp_path: Path) -> None:
    words = commands(README)[0]
    assert words == ["run", "--method", "dda", "--pair", "wrn40_2:wrn16_1"]
    done = program(*words, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results").glob("*/record.json")
    record = json.loads(path.read_text(encoding="utf-8"))
    print(done.stdout)
    assert record["teacher"]["accuracy"] >= 98.5
    assert record["accuracy"]["last"] >= 95
    assert record["priors"] == {"synthesizer": "none", "augmenter": "none", "filter": "none", "distiller": "none"}
    assert max(phase["peak_memory"] for phase in record["cost"].values()) < 4 * 2**30
