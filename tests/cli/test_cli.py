from __future__ import annotations

import re
from importlib.metadata import version

import pandas as pd
import pytest
import torch
from PIL import Image
from support.e2e_kit import (
    cli,
    make_record,
    own_cache,  # noqa: F401
    program,
    run_here,
    small_recipe,  # noqa: F401
    teacher_file,
    teachers_folder,
)

from dfkd_bench.api import Workbench, plan
from dfkd_bench.hooks.registry import STAGE_KINDS, default_registry
from dfkd_bench.leaderboard.columns import COLUMNS, pandas_types
from dfkd_bench.results.records import Results
from dfkd_bench.spec import RunSpec

PAIR = ("--pair", "resnet8:resnet8")


@pytest.mark.parametrize(
    "command",
    [
        ("--help",),
        ("run", "--help"),
        ("teacher", "--help"),
        ("methods",),
        ("plugins",),
        ("models",),
        ("datasets",),
    ],
    ids=" ".join,
)
def test_looking_around_imports_no_torch(command):
    code = (
        "import atexit, os, sys\n"
        "atexit.register(lambda: os._exit(77) if 'torch' in sys.modules else None)\n"
        "from dfkd_bench.cli import main; main()"
    )
    done = program(*command, code=code)
    assert done.code == 0, done
    assert done.out.strip()


def test_help_groups_the_commands_and_gives_two_examples_for_each_that_has_options():
    shown = cli("--help").out
    assert all(panel in shown for panel in ("─ Run ─", "─ Results ─", "─ Look up ─", "─ Write your own ─"))
    for command in ("run", "status", "leaderboard", "check", "show", "teacher", "grid"):
        _, found, examples = cli(command, "--help").out.partition("Examples:")
        assert found and examples.count(f"dfkd-bench {command}") == 2, command


def test_the_version_is_the_distributions():
    assert cli("--version").out == f"dfkd-bench {version('dfkd-bench')}\n"


def test_the_listings_name_everything():
    registry = default_registry()
    for command, kind in (("methods", "method"), ("models", "model"), ("datasets", "dataset")):
        shown = cli(command)
        assert shown.code == 0
        assert shown.err == ""
        for name in registry.provided(kind):
            assert re.search(rf"│ {re.escape(name)} ", shown.out), name
    assert "timm/<name>" in cli("models").out
    assert "folder:PATH" in cli("datasets").out
    shown = cli("plugins", "--load")
    assert shown.code == 0
    assert "broken" not in shown.out


NAMES = [
    (("--method", "cmj"), r"^unknown method 'cmj': did you mean cmi"),
    (("--pair", "resnet9:resnet8"), r"^unknown model 'resnet9': did you mean .*resnet8"),
    (("--pair", "resnet8:resnet9"), r"^unknown model 'resnet9': did you mean .*resnet8"),
    (("--pair", "timm/resnet17:resnet8"), r"^unknown timm model 'resnet17': did you mean .*resnet18"),
    (("--pair", "resnet8"), r"^'resnet8' is no pair: write TEACHER:STUDENT"),
    (("--dataset", "digit"), r"^unknown dataset 'digit': did you mean digits\?$"),
    (("--dataset", "folder:/no/such/folder"), r"/no/such/folder"),
    (("--preset", "quik"), r"^unknown preset of noise 'quik': did you mean quick\?$"),
    (("--synthesizer", "nois"), r"^unknown synthesizer 'nois': did you mean noise"),
    (("--augmenter", "clasic"), r"^unknown augmenter 'clasic': did you mean classic"),
    (("--filter", "cosin"), r"^unknown filter 'cosin': did you mean cosine"),
    (("--distiller", "ddda"), r"^unknown distiller 'ddda': did you mean dda"),
    (
        ("--set", "synthesizer.batchsize=3"),
        r"^the synthesizer 'noise' has no option 'batchsize': did you mean batch_size",
    ),
    (("--set", "schedule.epoch=3"), r"^the schedule of noise has no option 'epoch': did you mean epochs"),
    (("--set", "epochs=3"), r"^'epochs=3' sets nothing: write stage.option=value"),
    (("--set", "synthesiser.steps=3"), r"^unknown stage in --set 'synthesiser': did you mean synthesizer"),
    (("--set", "cmi:schedule.epochs=3"), r"^unknown method in --set 'cmi': "),
    (("--set", "schedule.epochs=soon"), r"^the schedule of noise refuses epochs=soon: .*integer"),
    (("--set", "schedule.epochs=0"), r"^the schedule of noise refuses epochs=0: "),
    (("--set", "distiller.tau=-1"), r"^the distiller 'kd' refuses tau=-1: "),
    (("--teacher", "/no/such/file.pth"), r"^there is no weights file /no/such/file.pth$"),
]


@pytest.mark.parametrize(("wrong", "sentence"), NAMES, ids=[" ".join(wrong) for wrong, _ in NAMES])
def test_a_mistake_is_one_sentence_and_exit_status_2(tmp_path, small_recipe, wrong, sentence):  # noqa: F811
    good = {"--method": "noise", "--pair": "resnet8:resnet8"}
    asked = [part for name, value in good.items() if name != wrong[0] for part in (name, value)]
    places = ("--results", tmp_path / "results", "--teachers", tmp_path / "teachers")
    done = cli("run", *asked, *wrong, *places, "--device", "cpu")
    assert re.search(sentence, done.sentence()), done.sentence()
    assert list(tmp_path.iterdir()) == []  # told before anything is made


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_gpu_that_is_not_there_is_one_sentence(tmp_path):
    done = cli("run", "--method", "noise", *PAIR, "--device", "cuda", "--results", tmp_path / "results")
    assert done.sentence().startswith("no CUDA device was found: use --device cpu")
    assert list(tmp_path.iterdir()) == []


def test_results_that_cannot_be_written_are_one_sentence(tmp_path, small_recipe):  # noqa: F811
    (tmp_path / "file").write_text("", encoding="utf-8")
    for folder in (tmp_path / "file" / "results", tmp_path / "file"):
        done = cli("run", "--method", "noise", *PAIR, "--results", folder, "--teachers", teachers_folder())
        assert str(folder) in done.sentence()
    done = cli("teacher", "train", "--model", "resnet8", "--teachers", tmp_path / "file" / "teachers")
    assert re.search(r"^the teacher's folder .* cannot be written", done.sentence())


def write_folder(path, size=16, damaged=False):
    for split in ("train", "test"):
        for shade, name in enumerate(("zero", "one")):
            (path / split / name).mkdir(parents=True)
            Image.new("L", (size, size), 100 * shade).save(path / split / name / "a.png")
    if damaged:
        (path / "test" / "one" / "b.png").write_bytes(b"no picture")
    return path


def test_missing_and_damaged_data_are_one_sentence_each(tmp_path, small_recipe):  # noqa: F811
    places = ("--results", tmp_path / "results", "--teachers", tmp_path / "teachers", "--device", "cpu")
    empty = cli("run", "--method", "noise", *PAIR, "--dataset", "cifar10", "--data-root", tmp_path / "none", *places)
    assert "cifar10" in empty.sentence()
    (tmp_path / "data" / "cifar10").mkdir(parents=True)
    for name in ("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001"):
        (tmp_path / "data" / "cifar10" / f"{name}.parquet").write_bytes(b"PAR1 no parquet")
    cut = cli("run", "--method", "noise", *PAIR, "--dataset", "cifar10", "--data-root", tmp_path / "data", *places)
    assert "parquet" in cut.sentence()
    own = write_folder(tmp_path / "own", damaged=True)
    bad = cli("teacher", "train", "--model", "resnet8", "--dataset", f"folder:{own}", *places[2:])
    assert "b.png" in bad.err.splitlines()[-1]
    assert bad.err.splitlines()[-1].startswith("dfkd-bench: ")
    assert bad.code == 2
    assert "Traceback" not in bad.err


def test_a_method_that_reads_batchnorm_refuses_a_teacher_without_it(tmp_path, small_recipe):  # noqa: F811
    own = write_folder(tmp_path / "own", size=32)
    places = ("--results", tmp_path / "results", "--teachers", tmp_path / "teachers", "--device", "cpu")
    done = cli("run", "--method", "cmi", "--pair", "lenet5:lenet5_half", "--dataset", f"folder:{own}", *places)
    assert re.search(
        r"^cmi cannot run on lenet5:lenet5_half: its synthesizer 'cmi' needs BatchNorm layers in the teacher, ",
        done.sentence(),
    )
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("value", ["0", "-1", "nan"])
def test_a_recipe_that_cannot_be_is_told_without_a_traceback(tmp_path, value):
    done = cli("teacher", "train", "--model", "resnet8", *("--lr", value, "--epochs", "1"), "--teachers", tmp_path)
    assert done.code == 2
    assert "lr" in done.err
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_says_what_would_be_run_and_writes_nothing(tmp_path, small_recipe):  # noqa: F811
    places = ("--results", tmp_path / "results", "--teachers", tmp_path / "teachers", "--device", "cpu")
    done = cli("run", "--method", "noise", "--method", "cmi", *PAIR, "--seed", "3", "--dry-run", *places)
    assert done.code == 0
    assert done.err == ""
    assert "2 runs, 2 to do" in done.out
    assert re.search(r"[0-9a-f]{16}  to do  noise resnet8:resnet8 digits seed 3: noise -> none -> all -> kd", done.out)
    assert list(tmp_path.iterdir()) == []


def test_what_a_stage_warns_of_is_said_once_for_each_teacher_before_the_run(tmp_path, small_recipe):  # noqa: F811
    places = ("--results", tmp_path / "results", "--teachers", tmp_path / "teachers", "--device", "cpu")
    pairs = [part for pair in ("resnet18:resnet8", "resnet18:wrn16_1", "resnet8:resnet8") for part in ("--pair", pair)]
    done = cli("run", "--method", "cmi", *pairs, "--seeds", 2, "--dry-run", *places)
    assert done.code == 0
    assert done.out.count("takes up to") == 1
    assert "cmi with the teacher resnet18: the contrast between images takes up to 1.8 GiB" in done.out


def test_on_a_cluster_device_and_precision_are_told_as_they_were_asked_for(tmp_path):
    asked = ("run", "--method", "noise", *PAIR, "--engine", "ray", "--dry-run", "--results", tmp_path)
    assert cli(*asked).out.splitlines()[0].endswith("; a Ray cluster, device auto, precision auto")
    done = cli(*asked, "--device", "cpu", "--precision", "fp32")
    assert done.out.splitlines()[0].endswith("; a Ray cluster, device cpu, precision fp32")


def test_a_dry_run_with_a_teachers_file_writes_nothing_either(tmp_path):
    places = ("--results", tmp_path / "results", "--teachers", tmp_path / "teachers", "--device", "cpu")
    done = cli("run", "--method", "noise", *PAIR, "--teacher", teacher_file(), "--dry-run", *places)
    assert done.code == 0
    assert list(tmp_path.iterdir()) == []


def test_two_methods_on_two_pairs_are_four_records_one_table_and_are_not_run_twice(tmp_path, small_recipe):  # noqa: F811
    pairs = (*PAIR, "--pair", "resnet8:wrn16_1")
    first = run_here(tmp_path, *pairs, methods=("noise", "cmi"))
    assert first.code == 0, first
    assert "4 runs, 4 to do" in first.out
    assert "0 found, 4 run" in first.out
    for pair in ("resnet8:resnet8", "resnet8:wrn16_1"):
        assert first.out.count(f"digits, {pair}, preset quick, each method's own budget (native), teacher ") == 1
    for method in ("noise", "cmi"):
        assert first.out.count(f"│ {method} ") == 2
    results = Results(tmp_path / "results")
    records = list(results.records())
    assert len(records) == 4
    assert {record.status for record in records} == {"finished"}
    table = pd.read_csv(
        tmp_path / "results" / "leaderboard.csv", dtype=pandas_types(), keep_default_na=False, na_values=[""]
    )
    assert list(table.columns) == [column.name for column in COLUMNS]
    assert len(table) == 4
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("record.json")}
    second = run_here(tmp_path, *pairs, methods=("noise", "cmi"))
    assert second.code == 0
    assert "4 runs, 0 to do" in second.out
    assert "4 found, 0 run" in second.out
    assert second.err == ""
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "results").rglob("record.json")} == before
    shown = cli("leaderboard", "--results", tmp_path / "results")
    assert shown.code == 0
    assert shown.out.count("resnet8:wrn16_1") == 1
    assert "4 rows in" in shown.out


def test_progress_goes_to_the_error_stream_and_the_table_to_the_other(tmp_path, small_recipe):  # noqa: F811
    done = run_here(tmp_path, *PAIR)
    assert "epoch 2/2: accuracy" in done.err
    assert "finished: last epoch" in done.err
    assert "epoch 2/2" not in done.out
    assert "Accuracy" not in done.err


def test_a_run_that_fails_is_a_row_and_exit_status_1(tmp_path, small_recipe):  # noqa: F811
    done = run_here(tmp_path, *PAIR, "--set", "schedule.lr=1e30")
    assert done.code == 1, done
    assert "diverged: noise resnet8:resnet8 digits seed 0" in done.err
    assert "last good epoch 0: the loss" in done.err
    assert "(+1 failed)" in done.out
    assert "Traceback" not in done.err
    (record,) = Results(tmp_path / "results").records()
    assert record.status == "diverged"
    again = run_here(tmp_path, *PAIR, "--set", "schedule.lr=1e30")
    assert (again.code, "1 found, 0 run" in again.out) == (1, True)
    retried = run_here(tmp_path, *PAIR, "--set", "schedule.lr=1e30", "--retry", "failed")
    assert (retried.code, "0 found, 1 run" in retried.out) == (1, True)


def test_a_leaderboard_of_nothing_is_one_sentence(tmp_path):
    assert "there is no results folder" in cli("leaderboard", "--results", tmp_path / "none").sentence()
    old = tmp_path / "leaderboard.csv"
    old.write_text("of records that lie elsewhere", encoding="utf-8")
    assert "there are no records in" in cli("leaderboard", "--results", tmp_path).sentence()
    assert old.read_text(encoding="utf-8") == "of records that lie elsewhere"


def test_claims_are_listed_and_filtered_and_stand_beside_what_was_measured(tmp_path):
    shown = cli("claims", "--method", "cmi", "--dataset", "cifar10", "--pair", "wrn40_2:wrn16_1")
    assert shown.code == 0
    assert "8 published numbers" in shown.out
    assert shown.out.count(" 90.01 ") == 5
    assert "no published number fits" in cli("claims", "--dataset", "digits").sentence()
    spec = plan(Workbench.make(device="cpu"), ["cmi"], ["wrn40_2:wrn16_1"], dataset="cifar10", preset="paper-bank")[0]
    Results(tmp_path).write(make_record(spec, 89.5))
    beside = cli("claims", "--method", "cmi", "--dataset", "cifar10", "--results", tmp_path).out
    assert beside.count("89.50 (-0.51)") == 5
    assert "not tried" in beside
    assert "other setting" in beside
    changed = spec.model_copy(update={"schedule": spec.schedule.model_copy(update={"epochs": 3})})
    Results(tmp_path / "changed").write(make_record(RunSpec.model_validate(changed.model_dump()), 89.5))
    assert "89.50" not in cli("claims", "--method", "cmi", "--results", tmp_path / "changed").out


@pytest.mark.parametrize("method", sorted(default_registry().provided("method")))
def test_show_has_every_option_of_every_stage(method):
    shown = cli("show", method)
    assert shown.code == 0
    assert shown.err == ""
    registry = default_registry()
    recipe = registry.load("method", method)
    assert recipe.summary.split()[0] in shown.out
    for kind in STAGE_KINDS:
        stage = registry.load(kind, getattr(recipe, kind).name)
        for name, info in stage.Options.model_fields.items():
            assert re.search(rf"│ {kind}\.{name} ", shown.out), f"{kind}.{name}"
            assert info.description.split()[0] in shown.out
    for name in ("epochs", "lr", "warmup_rounds", "bank_capacity"):
        assert f"schedule.{name} " in shown.out


def test_show_says_which_preset_takes_which_stage_and_value():
    both, quick = cli("show", "dda").out, cli("show", "dda", "--preset", "quick").out
    assert "augmenter 'image-variation' (preset paper), prior: image" in both
    assert "image-variation" not in quick
    (line,) = [line for line in quick.splitlines() if "schedule.warmup_rounds" in line]
    assert [cell.strip() for cell in line.split("│")[2:4]] == ["0", "3"]
    assert cli("show", "ddda").sentence().startswith("unknown method 'ddda': did you mean dda")
    assert "is no pair" in cli("show", "dda", "--pair", "x").sentence()
    assert "unknown preset" in cli("show", "dda", "--preset", "quik").sentence()
