"""What is shipped: metadata, lock, source distribution and wheel."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = (ROOT / "uv.lock").read_text(encoding="utf-8")
PACKAGES = ("dfkd_bench", "dfkd_dda", "dfkd_trackers", "dfkd_baselines")


def group(name: str) -> set[str]:
    entries = PROJECT["dependency-groups"][name]
    included = [each for entry in entries if not isinstance(entry, str) for each in group(entry["include-group"])]
    return {*included, *(entry for entry in entries if isinstance(entry, str))}


def test_extras_and_dependency_groups_name_the_same_packages() -> None:
    extras = {name: set(packages) for name, packages in PROJECT["project"]["optional-dependencies"].items()}
    assert group("test") | group("lint") == extras["test"]
    assert group("docs") == extras["docs"]
    assert group("dev") == extras["test"] | extras["docs"]


def test_the_lock_is_of_these_dependencies_and_of_public_hosts() -> None:
    hosts = set(re.findall(r"\w+://[^/\"]+", LOCK))
    assert hosts == {"https://pypi.org", "https://files.pythonhosted.org"}
    assert not re.search(r"\bpath = ", LOCK)
    (own,) = [package for package in tomllib.loads(LOCK)["package"] if package["name"] == "dfkd-bench"]
    assert own["source"] == {"editable": "."}
    project = PROJECT["project"]
    wanted = [*project["dependencies"], *(p for ps in project["optional-dependencies"].values() for p in ps)]
    locked = {each["name"] + _sorted(each.get("specifier", "")) for each in own["metadata"]["requires-dist"]}
    # If this fails, the dependencies have changed: run `uv lock`.
    assert {_normal(each) for each in wanted} == locked


def _normal(requirement: str) -> str:
    name, specifier = re.fullmatch(r"([\w.-]+)(.*)", requirement).groups()
    return re.sub(r"[-_.]+", "-", name).lower() + _sorted(specifier)


def _sorted(specifier: str) -> str:
    return ",".join(sorted(specifier.split(",")))


def hatchling(target: str, folder: Path, source: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", folder]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (built,) = folder.iterdir()
    return built


@pytest.mark.slow
def test_the_wheel_of_the_source_distribution_is_whole_and_runs(tmp_path: Path) -> None:
    with tarfile.open(hatchling("sdist", tmp_path / "sdist", ROOT)) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.glob("dfkd_bench-*")
    for part in ("LICENSE", "CONTRIBUTING.md", "docs/conf.py", "tests/conftest.py", "results/reference", "grids"):
        assert (source / part).exists(), part
    assert not (source / "docs" / "generated").exists()
    wheel = hatchling("wheel", tmp_path / "wheel", source)
    with ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    assert {name.split("/")[0] for name in names} == {*PACKAGES, wheel.name.rpartition("-py3")[0] + ".dist-info"}
    for package, folder in zip(PACKAGES, (".", "plugins", "plugins", "baselines"), strict=True):
        tree = ROOT / folder / package
        files = [path for path in tree.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
        assert {path.relative_to(ROOT / folder).as_posix() for path in files} <= set(names)
    run_from(wheel, tmp_path / "venv")


def run_from(wheel: Path, folder: Path) -> None:
    """Install the wheel into an environment of its own, which borrows the dependencies of this one."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    (site,) = folder.glob("lib/python*/site-packages")
    # A path file in a path file's folder is not read: this checkout's own installation stays out.
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q", "--python", python]
    subprocess.run([*pip, "install", "--no-deps", "--no-index", wheel], check=True)
    outside = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"NO_COLOR": "1"}

    def out(*command: str | Path) -> str:
        done = subprocess.run(command, cwd=folder, env=outside, capture_output=True, text=True, check=True)
        return done.stdout

    assert Path(out(python, "-c", "import dfkd_bench; print(dfkd_bench.__file__)").strip()).is_relative_to(site)
    assert "leaderboard" in out(folder / "bin" / "dfkd-bench", "--help")
    rows = [line for line in out(folder / "bin" / "dfkd-bench", "plugins").splitlines() if " ok " in line]
    assert {line.split("│")[1].strip() for line in rows} >= {"core", "baselines", "dda", "trackers"}
    assert " cmi " in out(folder / "bin" / "dfkd-bench", "methods")
