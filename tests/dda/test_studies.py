from __future__ import annotations

import re
import shutil
import tomllib

import pytest
from support.e2e_kit import bench, cli, make_record, own_cache, small_recipe, teachers_folder  # noqa: F401

from dfkd_bench.api import plan_grid
from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.leaderboard.study import study_of
from dfkd_bench.planning.grid_file import study_words

STUDIES = default_registry().studies()


def test_all_studies_ship():
    assert {"threshold", "variations", "strength", "diversity", "augmenters", "cost"} <= set(STUDIES)


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_a_study_is_planned_and_its_arms_take_equal_steps(name, tmp_path):
    arms = plan_grid(bench(tmp_path), STUDIES[name])
    assert len(arms) == 3 * len(tomllib.loads(STUDIES[name].read_text())["method"])
    assert len({(arm.spec.schedule.epochs, arm.spec.schedule.steps_per_epoch) for arm in arms}) == 1
    assert f"--study {name} " in STUDIES[name].read_text()


@pytest.mark.parametrize("name", sorted(STUDIES))
def test_the_words_of_a_study_name_its_own_arms(name):
    arms = [arm["label"] for arm in tomllib.loads(STUDIES[name].read_text())["method"]]
    one = make_record()
    said = study_of((label, [one]) for label in arms).paragraph(study_words(STUDIES[name]))
    assert "{" not in said and len(said) > 100


def test_a_study_runs_from_the_command_line(tmp_path, monkeypatch, small_recipe):  # noqa: F811
    # Its own file, cut down: two arms, one seed, the tiny teacher's network.
    text = STUDIES["augmenters"].read_text()
    text = text.replace("seeds = 3", "seeds = 1").replace("resnet8x4:resnet8", "resnet8:resnet8")
    tables = [table for table in text.split("[[method]]")[1:] if "copies" in table or "mixup" in table]
    small = "[schedule]\nepochs = 1\nsteps_per_epoch = 2\nbatch_size = 8\nwarmup_rounds = 1\n"
    arms = "".join(
        f"[[method]]{table}[method.synthesizer]\nsteps = 1\nbatch_size = 8\nnegatives = 8\n" for table in tables
    )
    grid = tmp_path / "studies" / "small.toml"
    grid.parent.mkdir()
    head, words, after = text.split("[[method]]")[0].split('"""')
    head = f'{head}"""Mean {{accuracy:mixup}}, n = {{n}}."""{after}'
    grid.write_text(head + small + arms)
    monkeypatch.setattr("dfkd_bench.hooks.registry.Registry.studies", lambda self: {"small": grid})
    results = tmp_path / "results"
    done = cli("run", "--study", "small", "--results", results, "--teachers", _teachers(tmp_path), "--device", "cpu")
    assert done.code == 0, done.err
    assert "2 found" not in done.out and (results / "leaderboard.csv").exists()
    assert re.search(r"^Mean \d+\.\d+ %, n = 1\.$", done.out, re.MULTILINE)
    assert {path.name for path in results.glob("study-small.*")} == {
        f"study-small.{kind}" for kind in ("csv", "md", "pdf", "png", "svg")
    }
    assert "| copies | 1 |" in (results / "study-small.md").read_text()
    assert "'smal'" in cli("run", "--study", "smal", "--results", results).sentence()


def _teachers(tmp_path):
    return shutil.copytree(teachers_folder(), tmp_path / "teachers")
