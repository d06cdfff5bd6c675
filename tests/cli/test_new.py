"""`dfkd-bench new`: each kind is generated, loaded, installed, tested, run and built into a wheel."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint

import pytest
from support.e2e_kit import cli, own_cache, program, registry_with, teacher_file  # noqa: F401

from dfkd_bench import DfkdError
from dfkd_bench.cli.new import Kind, write_package
from dfkd_bench.hooks.registry import STAGE_KINDS
from dfkd_bench.results.records import Results
from dfkd_bench.stages.base import check_class

#: What a kind registers beside a recipe.
STAGES = {"method": {"synthesizer", "distiller"}, "stream": {"synthesizer"}} | {kind: {kind} for kind in STAGE_KINDS}


@pytest.mark.parametrize("kind", list(Kind))
def test_each_kind_is_a_package_that_loads(kind, tmp_path, monkeypatch):
    name = f"made-up-{kind.value}"
    module = name.replace("-", "_")
    folder = write_package(name, kind, tmp_path)
    assert not [path for path in folder.rglob("*") if path.is_file() and "$" in path.read_text(encoding="utf-8")]
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["project"]["entry-points"]["dfkd_bench"] == {module: module}
    readme = (folder / "README.md").read_text(encoding="utf-8")
    commands = readme.split("```bash\n")[1].split("```")[0].splitlines()
    assert len(commands) == 4
    assert commands[0] == "pip install -e '.[test]'"
    monkeypatch.syspath_prepend(str(folder))
    importlib.invalidate_caches()
    registry = registry_with(EntryPoint(module, module, "dfkd_bench"))
    (row,) = [row for row in registry.rows if row.name == module]
    assert row.reason is None, row
    for stage_kind in STAGES.get(kind.value, ()):
        check_class(registry.load(stage_kind, name))
    if kind.value in STAGES:
        assert registry.load("method", name).preset_names() == ["quick", "paper"]


def test_the_command_says_where_it_is_and_refuses_what_does_not_serve(tmp_path):
    done = cli("new", "my-idea", "--into", tmp_path)
    assert done.code == 0
    assert str(tmp_path / "my-idea") in done.out
    assert "is there already" in cli("new", "my-idea", "--into", tmp_path).sentence()
    assert "'My Idea' does not serve as a name" in cli("new", "My Idea", "--into", tmp_path).sentence()
    assert "'cmi' is taken" in cli("new", "cmi", "--into", tmp_path).sentence()
    with pytest.raises(DfkdError, match="'class' does not serve"):
        write_package("class", Kind.method, tmp_path)


RUN = {
    "method": ("--set", "synthesizer.steps=2", "--set", "synthesizer.batch_size=8"),
    "stream": ("--set", "synthesizer.width=16", "--set", "synthesizer.batch_size=8"),
    "model": ("--method", "noise", "--pair", "resnet8:NAME", "--set", "synthesizer.batch_size=8"),
    "dataset": ("--method", "noise", "--pair", "resnet8:resnet8", "--dataset", "NAME"),
    "events": ("--method", "noise", "--pair", "resnet8:resnet8"),
}


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=pytest.mark.slow if kind is Kind.method else pytest.mark.long) for kind in Kind]
)
def test_each_kind_is_installed_tested_run_and_built(kind, tmp_path):
    name = f"made-up-{kind.value}"
    folder = write_package(name, kind, tmp_path)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    build = ["--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*pip, "wheel", *build, "-w", tmp_path / "wheels", folder], check=True)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    site = tmp_path / "site"
    subprocess.run([*pip, "install", *build, "--target", site, wheel], check=True)
    paths = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    tested = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder / "tests"],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout
    chosen = [part.replace("NAME", name) for part in RUN.get(kind.value, RUN["method"])]
    if "--method" not in chosen:
        chosen = ["--method", name, "--pair", "resnet8:resnet8", *chosen]
    teacher = () if kind is Kind.dataset else ("--teacher", teacher_file())
    schedule = ("epochs=1", "rounds_per_epoch=1", "steps_per_epoch=2", "batch_size=8")
    settings = [part for text in schedule for part in ("--set", f"schedule.{text}")]
    ran = program(
        *("run", *chosen, *settings, *teacher, "--results", tmp_path / "results", "--device", "cpu"),
        path=site,
        timeout=300,
    )
    assert ran.code == 0, ran
    (record,) = Results(tmp_path / "results").records()
    assert record.status == "finished"
    assert record.environment.plugins[name] == "0.1.0"
