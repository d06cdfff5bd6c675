from __future__ import annotations

import shlex
from pathlib import Path

import pytest
from support.e2e_kit import RECIPE, bench, cli, make_record, own_cache, registry_with, small_recipe, teacher_file  # noqa: F401
from support.folder_kit import picture, save
from support.probes import LAYERED, Probe, WithoutBatchNorm

from dfkd_bench import DfkdError, api
from dfkd_bench.datasets.access import open_dataset
from dfkd_bench.planning.grid_file import GridFileError, plan_file
from dfkd_bench.results.records import Results
from dfkd_bench.spec import TeacherRef

EXAMPLE = Path(__file__).parents[2] / "docs" / "grid-example.toml"
SMALL = 'methods = ["noise"]\npairs = ["resnet8:resnet8"]\n'


@pytest.fixture(scope="module")
def registry():
    return registry_with(augmenter={"probe": Probe}, model={"plain-net": WithoutBatchNorm}, method=[LAYERED])


def planned(registry, folder, text):
    file = folder / "grid.toml"
    file.write_text(text, encoding="utf-8")
    recipe = TeacherRef(recipe=RECIPE)
    return plan_file(file, registry, lambda name: open_dataset(name, registry).card, lambda *asked: recipe)


def mistakes(registry, folder, text):
    """Line and sentence of each."""
    with pytest.raises(GridFileError) as caught:
        planned(registry, folder, text)
    found = []
    for sentence in caught.value.sentences:
        file, line, told = sentence.split(":", 2)
        assert file == str(folder / "grid.toml")
        assert "\n" not in told
        found.append((int(line), told.strip()))
    return found


def test_a_grid_is_the_product_of_all_that_it_names(registry, tmp_path):
    runs = planned(
        registry,
        tmp_path,
        'methods = ["noise", "cmi"]\npairs = ["resnet8:resnet8", "resnet8:wrn16_1"]\n'
        'seeds = 2\npresets = ["quick", "paper"]\nprotocols = ["native", "matched"]\n'
        'datasets = ["digits", "cifar10"]\n',
    )
    found = {
        (r.spec.method, str(r.spec.pair), r.spec.dataset, r.spec.preset, r.spec.protocol, r.spec.seed) for r in runs
    }
    assert len(runs) == len(found) == 2 * 2 * 2 * 2 * 2 * 2
    assert len({run.spec.hash for run in runs}) == len(runs)


def test_a_network_with_arguments_is_named_in_a_pair_and_one_that_takes_no_such_image_is_told_there(registry, tmp_path):
    vit = "timm/vit_tiny_patch16_224?depth=1&embed_dim=24&img_size=16&num_heads=3&patch_size=4"
    text = SMALL.replace('["resnet8:resnet8"]', f'["{vit}:resnet8", "{vit}:{vit}"]')
    assert [str(run.spec.pair) for run in planned(registry, tmp_path, text)] == [f"{vit}:resnet8", f"{vit}:{vit}"]
    told = mistakes(registry, tmp_path, text.replace("img_size=16", "img_size=32"))
    assert told[0][0] == 2
    assert "cannot take digits's images [1, 16, 16]" in told[0][1]


def test_what_is_left_out_is_digits_quick_native_and_seed_0(registry, tmp_path):
    (run,) = planned(registry, tmp_path, SMALL)
    assert (run.spec.dataset, run.spec.preset, run.spec.protocol, run.spec.seed) == ("digits", "quick", "native", 0)
    assert run.label == "noise"


def test_the_same_run_asked_for_twice_is_planned_once_and_equals_that_of_the_command_line(registry, tmp_path):
    (run,) = planned(registry, tmp_path, SMALL.replace('["noise"]', '["noise", "noise"]'))
    places = ("--results", tmp_path / "results", "--device", "cpu", "--dry-run")
    by_grid = cli("run", "--grid", tmp_path / "grid.toml", *places)
    by_hand = cli("run", "--method", "noise", "--pair", "resnet8:resnet8", *places)
    assert by_grid.code == 0, by_grid
    assert by_grid.out == by_hand.out


def test_a_method_may_come_in_several_ways_each_with_its_own_settings(registry, tmp_path):
    runs = planned(
        registry,
        tmp_path,
        """
        pairs = ["resnet8:resnet8"]
        presets = ["quick"]
        methods = ["layered", { name = "layered", label = "inline", augmenter = { whole = 7 } }]
        schedule = { lr = 0.5, epochs = 4 }
        [[method]]
        name = "layered"
        label = "swapped"
        augmenter = "classic"
        schedule.epochs = 9
        [[method]]
        name = "layered"
        preset = "paper"
        label = "with options"
        [method.augmenter]
        name = "classic"
        variants = 3
        """,
    )
    plain, inline, swapped, optioned = (run.spec for run in runs)
    assert [run.label for run in runs] == ["layered", "inline", "swapped", "with options"]
    assert (plain.augmenter.options["whole"], inline.augmenter.options["whole"]) == (3, 7)
    assert (swapped.augmenter.name, optioned.augmenter.options["variants"]) == ("classic", 3)
    assert [spec.schedule.epochs for spec in (plain, swapped)] == [4, 9]
    assert {spec.schedule.lr for spec in (plain, inline, swapped, optioned)} == {0.5}
    assert [spec.preset for spec in (plain, inline, swapped, optioned)] == ["quick", "quick", "quick", "paper"]


def test_seeds_are_a_count_or_an_array(registry, tmp_path):
    assert [run.spec.seed for run in planned(registry, tmp_path, SMALL + "seeds = 3")] == [0, 1, 2]
    assert [run.spec.seed for run in planned(registry, tmp_path, SMALL + "seeds = [7, 2]")] == [7, 2]


BAD = """# line 1
pairs = ["resnet8:resnet8", "resnet88:resnet8",
  "x"]
dataset = ["digits"]
datasets = ["digits", "digit"]
seeds = [0, -1, "a"]
presets = ["quick",
  "quik"]
protocols = ["matchd", "matched"]
methods = ["noise", "cmj", 3]
[[method]]
name = "cmi"
augmentr = "classic"
augmenter = "clasic"
[[method]]
name = "cmi"
[method.synthesizer]
stpes = 5
steps = -1
[method.distiller]
tau = "warm"
[method.schedule]
lr_min = 0.1
[[method]]
label = 1
[teachers.digit]
resnet8 = "x"
[teachers.digits]
resnet9 = "x"
"""


def test_every_mistake_is_told_with_its_line(registry, tmp_path):
    found = mistakes(registry, tmp_path, BAD)
    begins = {
        2: "unknown model 'resnet88': did you mean resnet8",
        3: "'x' is no pair: write TEACHER:STUDENT",
        4: "unknown key 'dataset': did you mean datasets?",
        5: "unknown dataset 'digit': did you mean digits?",
        9: "unknown protocol 'matchd': did you mean matched?",
        13: "unknown key 'augmentr': did you mean augmenter",
        14: "unknown augmenter 'clasic': did you mean classic?",
        18: "the synthesizer 'cmi' has no option 'stpes': did you mean steps?",
        19: "the synthesizer 'cmi' refuses steps=-1: Input should be greater than or equal to 1",
        21: "the distiller 'kd' refuses tau=warm: ",
        23: "the protocol matched gives every method the same lr_min, so it cannot be set for cmi alone",
        24: "this method has no name",
        26: "unknown dataset of the grid 'digit': did you mean digits?",
        29: "unknown teacher of the grid's pairs 'resnet9': did you mean resnet8?",
    }
    for line, begin in begins.items():
        assert next(told for at, told in found if at == line).startswith(begin), (line, found)
    assert [told for at, told in found if at == 6] == [
        "a seed must not be negative: -1 is",
        "each of seeds must be a whole number, not 'a'",
    ]
    assert [told for at, told in found if at == 10] == [
        "each of methods must be a text or a table, not 3",
        "unknown method 'cmj': did you mean cmi?",
    ]
    assert {told for at, told in found if at == 8} == {
        f"unknown preset of {name} 'quik': did you mean quick?" for name in ("noise", "cmi")
    }
    assert {at for at, _ in found} == {*begins, 6, 8, 10}
    assert [at for at, _ in found] == sorted(at for at, _ in found)


@pytest.mark.parametrize(
    ("text", "line", "told"),
    [
        ("seeds = 0\n" + SMALL, 1, "seeds = 0 asks for no run"),
        ("seeds = true\n" + SMALL, 1, "seeds must be a whole number or an array, not True"),
        (SMALL + "seeds = 1.5", 3, "seeds must be a whole number or an array, not 1.5"),
        (SMALL + "seeds = []", 3, "seeds is empty"),
        ('methods = []\npairs = ["resnet8:resnet8"]', 1, "the grid has no methods"),
        ('methods = ["noise"]\n', 1, "the grid has no pairs"),
        ('methods = ["noise"]\npairs = "resnet8:resnet8"', 2, "pairs must be an array, not 'resnet8:resnet8'"),
        (SMALL + "[[method]]\nname = 'cmi'\nsynthesizer = 3", 5, "synthesizer must be a text or a table, not 3"),
        (SMALL + "[method]\nname = 'cmi'", 3, "method must be an array, not {'name': 'cmi'}"),
        (SMALL + "[schedule]\nepochs = 1\nepoch = 3", 5, "the schedule of noise has no option 'epoch'"),
        (SMALL + "[[method]]\nname = 'noise'\nschedule.rounds_per_epoch = 0", 5, "the schedule of noise refuses"),
        (SMALL + "[[method]]\n[[method]]\nname = 'noise'\nlable = 'x'", 3, "this method has no name"),
        (SMALL + "x = [1,\n 2", 4, "Unclosed array"),
        (SMALL + "x = 'a\n", 3, ""),
    ],
)
def test_a_mistake_has_its_line(registry, tmp_path, text, line, told):
    assert any(at == line and sentence.startswith(told) for at, sentence in mistakes(registry, tmp_path, text))


def test_options_are_checked_even_where_dataset_and_pairs_are_wrong(registry, tmp_path):
    text = 'pairs = ["a"]\ndatasets = ["b"]\n[[method]]\nname = "cmi"\nsynthesizer.stpes = 1\n'
    assert [line for line, _ in mistakes(registry, tmp_path, text)] == [1, 2, 5]


def test_a_network_that_does_not_serve_is_told_once_with_the_methods_line(registry, tmp_path):
    text = (
        'pairs = ["plain-net:resnet8"]\nmethods = [\n"noise",\n"cmi"]\nprotocols = ["native", "matched"]\nseeds = 3\n'
    )
    ((line, told),) = mistakes(registry, tmp_path, text)
    assert line == 4
    assert told.startswith("cmi cannot run on plain-net:resnet8: its synthesizer 'cmi' needs BatchNorm layers")


def test_the_command_prints_a_sentence_for_each_and_runs_nothing(tmp_path):
    (tmp_path / "grid.toml").write_text('methods = ["cmj"]\npairs = ["x"]\n', encoding="utf-8")
    done = cli("run", "--grid", tmp_path / "grid.toml", "--results", tmp_path / "results")
    assert done.code == 2
    assert [line.split(": ")[0] for line in done.err.splitlines()] == ["dfkd-bench"] * 2
    assert f"{tmp_path}/grid.toml:1: unknown method 'cmj'" in done.err
    assert f"{tmp_path}/grid.toml:2: 'x' is no pair" in done.err
    assert not (tmp_path / "results").exists()


def test_files_that_cannot_be_read_are_one_sentence(tmp_path):
    assert "cannot read the grid file" in cli("run", "--grid", tmp_path / "none.toml").sentence()
    (tmp_path / "grid.toml").write_bytes(b"\xff\xfe")
    assert "is no text in UTF-8" in cli("run", "--grid", tmp_path / "grid.toml").sentence()


@pytest.mark.parametrize("more", [("--method", "noise"), ("--seeds", "2"), ("--preset", "quick"), ("--set", "a.b=1")])
def test_a_grid_beside_options_that_say_what_is_run_is_refused(tmp_path, more):
    (tmp_path / "grid.toml").write_text(SMALL, encoding="utf-8")
    told = cli("run", "--grid", tmp_path / "grid.toml", *more).sentence()
    assert told.startswith(f"--grid says what is run: leave out {more[0]}, or write it into")


def test_the_example_plans(registry):
    recipe = TeacherRef(recipe=RECIPE)
    runs = plan_file(EXAMPLE, registry, lambda name: open_dataset(name, registry).card, lambda *asked: recipe)
    assert len(runs) == 4 * 2 * 2 * 3
    assert {run.label for run in runs} == {"noise", "cmi", "cmi with classic transforms", "dda, two variants"}


def test_a_teachers_file_is_sought_beside_the_grid_and_named_by_its_hash(tmp_path):
    workbench = bench(tmp_path / "results")
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "t.safetensors").write_bytes(teacher_file().read_bytes())
    grid = tmp_path / "grid.toml"
    text = SMALL
    grid.write_text(text + '[teachers.digits]\nresnet8 = "weights/t.safetensors"\n', encoding="utf-8")
    (run,) = api.plan_grid(workbench, grid, keep_teacher=False)
    assert run.spec.teacher.sha256 == workbench.store.check_file(teacher_file(), "resnet8", "digits")
    grid.write_text(text + '[teachers.digits]\nresnet8 = "weights/no.safetensors"\n', encoding="utf-8")
    with pytest.raises(DfkdError, match=r"grid.toml:4: there is no weights file .*weights/no.safetensors$"):
        api.plan_grid(workbench, grid, keep_teacher=False)


def test_each_emitted_command_runs_exactly_its_run(tmp_path, small_recipe, monkeypatch):  # noqa: F811
    folder = tmp_path / "a folder; with 'quotes'"
    folder.mkdir()
    grid = folder / "my grid.toml"
    grid.write_text(
        SMALL + 'seeds = 2\n[[method]]\nname = "noise"\nsynthesizer.batch_size = 8\nlabel = "small"\n', encoding="utf-8"
    )
    places = ("--results", folder / "results", "--teachers", folder / "teachers")
    specs = [run.spec for run in api.plan_grid(bench(folder / "results"), grid)]
    Results(folder / "results").write(make_record(specs[1]))
    done = cli("grid", "emit", grid, *places, "--device", "cpu", "--precision", "fp32")
    assert done.code == 0, done
    commands = [shlex.split(line) for line in done.out.splitlines()]
    assert [command[0] for command in commands] == ["dfkd-bench"] * 3  # one of four has a record
    monkeypatch.chdir("/")
    for command, spec in zip(commands, [specs[0], *specs[2:]], strict=True):
        asked = []

        def run_grid(chosen, *_, asked=asked, **__):
            asked.extend(chosen)
            raise ZeroDivisionError

        monkeypatch.setattr("dfkd_bench.engines.run_grid", run_grid)
        with pytest.raises(ZeroDivisionError):
            cli(*command[1:])
        assert asked == [spec]
        assert [one.hash for one in asked] == [spec.hash]


def test_only_runs_that_there_are_can_be_chosen(tmp_path):
    (tmp_path / "grid.toml").write_text(SMALL, encoding="utf-8")
    told = cli("run", "--grid", tmp_path / "grid.toml", "--only", "0" * 16).sentence()
    assert told.endswith(f"grid.toml has no run {'0' * 16}: --dry-run lists the runs there are")


def test_a_relative_folder_is_sought_beside_the_file_wherever_the_command_runs(tmp_path, monkeypatch):
    for split in ("train", "test"):
        for number, name in enumerate(("ant", "bee")):
            save(tmp_path / "grids" / "own" / split / name / "0.png", picture(number))
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "grids" / "grid.toml"
    file.write_text(
        'methods = ["noise"]\npairs = ["resnet8:resnet8"]\ndatasets = ["folder:own"]\n'
        '[teachers."folder:own"]\nresnet8 = "weights.pth"\n',
        encoding="utf-8",
    )
    asked = []

    def teacher(dataset, network, weights):
        asked.append((dataset, network, weights))
        return TeacherRef(sha256="a" * 64)

    registry = registry_with()
    runs = plan_file(file, registry, lambda name: open_dataset(name, registry).card, teacher)
    name = f"folder:{(tmp_path / 'grids' / 'own').resolve()}"
    assert [run.spec.dataset for run in runs] == [name]
    assert asked == [(name, "resnet8", tmp_path / "grids" / "weights.pth")]


def test_a_slip_of_the_finger_plans_no_million_of_seeds(tmp_path):
    file = tmp_path / "grid.toml"
    file.write_text('methods = ["noise"]\npairs = ["resnet8:resnet8"]\nseeds = 1000000000\n', encoding="utf-8")
    registry = registry_with()
    with pytest.raises(GridFileError, match=r"grid.toml:3: seeds = 1000000000 are too many: 10,000 at most$"):
        plan_file(
            file, registry, lambda name: open_dataset(name, registry).card, lambda *_: TeacherRef(sha256="a" * 64)
        )
