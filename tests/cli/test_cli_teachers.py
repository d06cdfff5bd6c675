from __future__ import annotations

import re

import pytest
from support.e2e_kit import (
    RECIPE,
    cli,
    own_cache,  # noqa: F401
    run_here,
    sets,
    small_recipe,  # noqa: F401
    teacher_file,
)

from dfkd_bench.datasets.cards import DIGITS
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.models.build import build_model
from dfkd_bench.teachers.weights import read_weights, save_weights

PAIR = ("--pair", "resnet8:resnet8")


def seven_classes():
    return DIGITS.model_copy(update={"num_classes": 7, "class_names": tuple("0123456")})


@pytest.mark.parametrize(
    ("write", "sentence"),
    [
        (
            lambda file: save_weights(build_model("vgg8", DIGITS, Registry()).state_dict(), file),
            r"t.safetensors (is no|does not fit) resnet8: ",
        ),
        (
            lambda file: save_weights(build_model("resnet8", seven_classes(), Registry()).state_dict(), file),
            r"t.safetensors does not fit resnet8: '.*' is \[7, 64\] there, \[10, 64\] here$",
        ),
        (lambda file: file.write_bytes(b"nothing"), r"t.safetensors cannot be read as weights"),
    ],
    ids=["another network", "another class count", "a damaged file"],
)
def test_a_teacher_that_does_not_fit_is_one_sentence(tmp_path, write, sentence):
    write(tmp_path / "t.safetensors")
    for done in (
        run_here(tmp_path, *PAIR, "--teacher", tmp_path / "t.safetensors"),
        cli("teacher", "import", tmp_path / "t.safetensors", "--model", "resnet8", "--dataset", "digits"),
    ):
        assert re.search(sentence, done.sentence()), done.sentence()


def test_one_teachers_file_for_two_networks_is_one_sentence(tmp_path):
    done = run_here(tmp_path, *PAIR, "--pair", "vgg8:resnet8", "--teacher", teacher_file())
    assert done.sentence() == "--teacher gives one network's weights, but the pairs name resnet8, vgg8"


def test_teachers_are_trained_listed_verified_and_imported(tmp_path):
    folder = ("--teachers", tmp_path / "teachers")
    here = (*folder, "--device", "cpu", "--precision", "fp32")
    recipe = ("--epochs", "1", "--batch-size", "256", "--seed", "5")
    trained = cli("teacher", "train", "--model", "resnet8", *recipe, *here)
    assert trained.code == 0, trained
    assert re.search(
        r"^resnet8 on digits: \d+\.\d\d % of the test split, weights [0-9a-f]{16}, trained here$", trained.out
    )
    again = cli("teacher", "train", "--model", "resnet8", *recipe, *here)
    assert again.out == trained.out
    assert again.err == ""  # found, and not trained again
    imported = cli("teacher", "import", teacher_file(), "--model", "resnet8", "--dataset", "digits", *here)
    assert imported.code == 0, imported
    assert "file weights.safetensors" in imported.out
    listed = cli("teacher", "list", *folder)
    assert listed.code == 0
    rows = [line for line in listed.out.splitlines() if "│ digits" in line]
    assert len(rows) == 2
    verified = cli("teacher", "verify", *here)
    assert verified.code == 0
    assert verified.out.count("weights match the card") == 2
    for now, card in re.findall(r"(\S+) % now, (\S+) % on the card", verified.out):
        assert now == card
    names = sorted(path.name for path in (tmp_path / "teachers").iterdir())
    assert cli("teacher", "verify", names[0], *here).out.count("weights match the card") == 1
    assert "unknown teacher" in cli("teacher", "verify", "another", *here).sentence()
    weights = tmp_path / "teachers" / names[0] / "weights.safetensors"
    state = read_weights(weights)
    name = next(name for name, tensor in state.items() if tensor.is_floating_point())
    save_weights({**state, name: state[name] + 1}, weights)
    assert "are not those of its card" in cli("teacher", "verify", names[0], *here).sentence()


def test_teachers_of_an_unknown_network_are_refused(tmp_path):
    here = ("--teachers", tmp_path, "--device", "cpu")
    assert "did you mean" in cli("teacher", "train", "--model", "resnet9", *here).sentence()
    weights = (teacher_file(), "--dataset", "digits")
    assert "did you mean" in cli("teacher", "import", *weights, "--model", "resnet9", *here).sentence()
    assert "unknown dataset" in cli("teacher", "train", "--model", "resnet8", "--dataset", "digit", *here).sentence()
    assert cli("teacher", "list", "--teachers", tmp_path / "none").code == 0


def test_a_run_trains_its_teacher_on_first_use_and_says_so(tmp_path, small_recipe):  # noqa: F811
    places = ("--results", tmp_path / "results", "--teachers", tmp_path / "teachers")
    cpu = ("--device", "cpu", "--precision", "fp32")
    done = cli("run", "--method", "noise", *PAIR, *sets("noise"), *places, *cpu)
    assert done.code == 0, done
    assert f"the teacher resnet8 is trained first, {RECIPE.epochs} epochs on digits" in done.out
    assert "teacher resnet8 on digits: teacher training" in done.err
    other = cli("run", "--method", "noise", *PAIR, *sets("noise"), "--seed", "1", *places, *cpu)
    assert "is trained first" not in other.out
    assert "teacher training" not in other.err


def test_a_teacher_trained_with_other_settings_is_found_by_them(tmp_path):
    places = ("--teachers", tmp_path / "teachers", "--device", "cpu", "--precision", "fp32")
    how = {"epochs": "1", "optimizer": "adamw", "learning-rate": "1e-2", "warmup-epochs": "0"}
    options = [part for name, value in how.items() for part in (f"--{name}", value)]
    done = cli("teacher", "train", "--model", "resnet8", *options, *places)
    assert done.code == 0, done
    (card,) = (tmp_path / "teachers").glob("*/card.json")
    assert '"optimizer":"adamw"' in card.read_text().replace(" ", "").replace("\n", "")
    names = {"learning-rate": "lr"}
    settings = [f"teacher.{names.get(name, name).replace('-', '_')}={value}" for name, value in how.items()]
    asked = [part for setting in settings for part in ("--set", setting)]
    dry = ("run", "--method", "noise", *PAIR, "--results", tmp_path / "results", "--dry-run", *places)
    found, other = cli(*dry, *asked), cli(*dry, *asked, "--set", "teacher.seed=1")
    assert "is trained first" not in found.out
    assert "the teacher resnet8 is trained first, 1 epochs" in other.out
    grid = tmp_path / "grid.toml"
    recipe = 'epochs = 1, optimizer = "adamw", lr = 1e-2, warmup_epochs = 0'
    text = f'methods = ["noise"]\npairs = ["resnet8:resnet8"]\n[teachers.digits]\nresnet8 = {{ {recipe} }}\n'
    grid.write_text(text)
    by_grid = cli("run", "--grid", grid, "--results", tmp_path / "results", "--dry-run", *places)
    assert by_grid.out == found.out
    grid.write_text(text.replace("lr =", "rate ="))
    bad = cli("run", "--grid", grid, "--results", tmp_path / "results", "--dry-run", *places)
    assert "grid.toml:4: the recipe of a teacher has no option 'rate'" in bad.sentence()


def test_settings_of_a_teacher_that_is_given_or_is_of_one_method_are_refused(tmp_path):
    setting = ("--set", "teacher.epochs=1")
    given = run_here(tmp_path, *PAIR, "--teacher", teacher_file(), *setting)
    assert given.sentence() == ("--teacher gives the weights, so nothing is trained: leave out --set teacher.epochs")
    assert "all methods have one teacher" in run_here(tmp_path, *PAIR, "--set", "noise:teacher.epochs=1").sentence()
