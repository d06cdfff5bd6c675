"""A results folder is tampered with in every way that somebody might, and `verify` names file and field."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support.e2e_kit import cli, make_record, make_spec
from support.sharing_kit import IMAGES, KNOWN, first_run, remade_table, write_run

from dfkd_bench.results import pending
from dfkd_bench.results.curves import curve_hash
from dfkd_bench.results.records import Results
from dfkd_bench.sharing.verify import verify

ROOT = Path(__file__).parents[2]


def edit(path: Path, **fields):
    """Change fields of a record, `accuracy__last=99.0` for a nested one."""
    plain = json.loads(path.read_text(encoding="utf-8"))
    for name, value in fields.items():
        *outer, last = name.split("__")
        at = plain
        for key in outer:
            at = at[key]
        at[last] = value
    path.write_text(json.dumps(plain, indent=1), encoding="utf-8")


def edit_curve(run: Path, before: str, after: str, *, and_hash: bool = False):
    path = run / "curve.csv"
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after), encoding="utf-8")
    if and_hash:
        edit(run / "record.json", curve_sha256=curve_hash(path.read_text(encoding="utf-8")))


def edit_cell(folder: Path, before: str, after: str):
    path = folder / "leaderboard.csv"
    text = path.read_text(encoding="utf-8")
    assert before in text
    path.write_text(text.replace(before, after, 1), encoding="utf-8")


def changed_accuracy(folder):
    edit(first_run(folder) / "record.json", accuracy__last=99.0)
    return "record.json: accuracy.last is 99.0, but curve.csv gives 83.5655"


def changed_accuracy_and_curve_and_hash(folder):
    run = first_run(folder)
    edit_curve(run, "83.5655", "99.0", and_hash=True)
    edit(run / "record.json", accuracy__last=99.0, accuracy__oracle_best=99.0)
    remade_table(folder)
    return "curve.csv: row 2, accuracy is 99.0 %, which no number of 359 images is"


def changed_oracle(folder):
    edit(first_run(folder) / "record.json", accuracy__oracle_best=90.0)
    return "record.json: accuracy.oracle_best is 90.0, but curve.csv gives 83.5655"


def missing_run(folder):
    shutil.rmtree(first_run(folder))
    return f"names run {make_spec().hash}, which has no usable record"


def missing_run_of_a_plan(folder):
    pending.add(Results(folder), [make_spec(seed=seed) for seed in range(3)])
    shutil.rmtree(first_run(folder))
    remade_table(folder)
    return f"{make_spec().hash}: record.json is missing: a grid that is not done asks for noise resnet8:resnet8"


def removed_record(folder):
    (first_run(folder) / "record.json").unlink()
    remade_table(folder)
    return f"{make_spec().hash}: record.json is missing: the run is not finished, or it was removed"


def swapped_image(folder):
    shutil.copyfile(folder / make_spec(seed=1).hash / "images.png", first_run(folder) / "images.png")
    return "images.png: bytes do not fit images_sha256 in record.json: it was swapped or changed"


def removed_image(folder):
    (first_run(folder) / "images.png").unlink()
    return "images.png: file is missing, but images in record.json names it"


def image_elsewhere(folder):
    edit(first_run(folder) / "record.json", images="../../secret.png")
    return "record.json: images is '../../secret.png', which is no file beside the record"


def broken_image_of_an_old_record(folder):
    edit(first_run(folder) / "record.json", images_sha256=None)
    (first_run(folder) / "images.png").write_bytes(b"no picture")
    return "images.png: bytes are no picture"


def mixed_teacher(folder):
    recipe = {"recipe": {"epochs": 2, "batch_size": 32, "lr": 0.1, "seed": 0}}
    for seed in range(3):
        changes = {"teacher": recipe, "distiller": {"name": "kd", "options": {"tau": 8.0}}}
        teacher = make_record(sha256="c" * 64).teacher
        write_run(folder, seed + 10, 310, spec=changes, teacher=teacher)
    remade_table(folder)
    return f"record.json: teacher.sha256 mixes teachers: it is {'c' * 64} here (3 of 9), {'a' * 64} in"


def other_teacher_than_asked(folder):
    edit(first_run(folder) / "record.json", teacher__sha256="d" * 64)
    return f"record.json: teacher.sha256 is {'d' * 64}, but the spec asks for {'a' * 64}"


def changed_teacher_accuracy(folder):
    edit(first_run(folder) / "record.json", teacher__accuracy=97.5)
    remade_table(folder)
    return "record.json: teacher.accuracy contradicts others of the same teacher: it is 97.5 here (1 of 6), 90.0 in"


def duplicated_seed(folder):
    run = first_run(folder)
    spec = make_spec(seed=7)
    shutil.copytree(run, folder / spec.hash)
    edit(folder / spec.hash / "record.json", spec__seed=7, run=spec.hash)
    remade_table(folder)
    return "record.json: spec.seed is 7, but the curve is that of seed 0 in"


def copied_run(folder):
    shutil.copytree(first_run(folder), folder / "old" / make_spec().hash)
    return f"record.json: run {make_spec().hash} is there twice: also in"


def edited_csv_cell(folder):
    edit_cell(folder, "83.844", "98.844")
    return "accuracy_percent is '98.844"


def removed_csv_row(folder):
    path = folder / "leaderboard.csv"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    return f"leaderboard.csv: runs leaves out run {min(make_spec(seed=seed).hash for seed in range(3))}, which has"


def other_csv_columns(folder):
    edit_cell(folder, "dataset,teacher", "dataset,instructor")
    return "leaderboard.csv: header differs from this version's in instructor, teacher"


def edited_curve(folder):
    edit_curve(first_run(folder), "83.2869", "93.2869")
    return "curve.csv: content does not fit curve_sha256 in record.json"


def removed_curve(folder):
    (first_run(folder) / "curve.csv").unlink()
    return "curve.csv: content does not fit curve_sha256 in record.json: the curve "


def shortened_curve(folder):
    run = first_run(folder)
    path = run / "curve.csv"
    path.write_text("".join(path.read_text(encoding="utf-8").splitlines(keepends=True)[:-1]), encoding="utf-8")
    edit(run / "record.json", curve_sha256=curve_hash(path.read_text(encoding="utf-8")))
    return "record.json: last_good_epoch is 2, but the curve has 1 epochs"


def changed_spec(folder):
    edit(first_run(folder) / "record.json", spec__schedule__epochs=200)
    return f"record.json: content says run {make_spec().hash} but its spec's hash is"


def renamed_folder(folder):
    first_run(folder).rename(folder / "0123456789abcdef")
    return f"0123456789abcdef: name is not {make_spec().hash}, the hash of the spec in its record"


def truncated_record(folder):
    path = first_run(folder) / "record.json"
    path.write_bytes(path.read_bytes()[:700])
    return "record.json: content is no valid record (Invalid JSON:"


def foreign_record(folder):
    (folder / "other").mkdir()
    (folder / "other" / "record.json").write_text('{"accuracy": 99}', encoding="utf-8")
    return "record.json: content is no valid record (run:"


def foreign_file_beside_a_record(folder):
    (first_run(folder) / "weights.pkl").write_bytes(b"cos\nsystem\n")
    return "weights.pkl is no file that a run leaves"


def foreign_file_in_the_folder(folder):
    (folder / "extra.json").write_text("{}", encoding="utf-8")
    return "extra.json: file is none that belongs into a results folder"


def link(folder):
    first_run(folder).rename(folder.parent / "elsewhere")
    first_run(folder).symlink_to(folder.parent / "elsewhere")
    return "link is followed by no command"


def record_that_is_a_link(folder):
    (first_run(folder) / "record.json").unlink()
    (first_run(folder) / "record.json").symlink_to("/dev/zero")
    return "record.json: content is no regular file"


def impossible_accuracy(folder):
    edit(first_run(folder) / "record.json", teacher__accuracy=120.0)
    return "record.json: teacher.accuracy is 120.0, which is no percentage"


def impossible_bank(folder):
    edit(first_run(folder) / "record.json", bank__in_bank=5000)
    return "record.json: bank.in_bank is 5000, but only 21 images were synthesized or kept"


def impossible_cost(folder):
    edit(first_run(folder) / "record.json", cost__evaluation__seconds=-1)
    return "record.json: cost.evaluation.seconds is -1, which is no amount"


def other_test_split(folder):
    edit(first_run(folder) / "record.json", test_split="e" * 64)
    return f"record.json: test_split mixes test splits: it is {'e' * 64} here (1 of 6)"


def failure_made_a_success(folder):
    record = make_record(make_spec(seed=5), accuracy=None)
    Results(folder).write(record)
    edit(folder / record.run / "record.json", status="finished")
    remade_table(folder)
    return "record.json: accuracy is missing, but the status is finished"


TAMPERINGS = [
    changed_accuracy,
    changed_accuracy_and_curve_and_hash,
    changed_oracle,
    missing_run,
    missing_run_of_a_plan,
    removed_record,
    swapped_image,
    removed_image,
    image_elsewhere,
    broken_image_of_an_old_record,
    mixed_teacher,
    other_teacher_than_asked,
    changed_teacher_accuracy,
    duplicated_seed,
    copied_run,
    edited_csv_cell,
    removed_csv_row,
    other_csv_columns,
    edited_curve,
    removed_curve,
    shortened_curve,
    changed_spec,
    renamed_folder,
    truncated_record,
    foreign_record,
    foreign_file_beside_a_record,
    foreign_file_in_the_folder,
    link,
    record_that_is_a_link,
    impossible_accuracy,
    impossible_bank,
    impossible_cost,
    other_test_split,
    failure_made_a_success,
]


@pytest.mark.parametrize("tamper", TAMPERINGS, ids=lambda tamper: tamper.__name__)
def test_tampering_is_named_with_file_and_field(whole, tamper):
    sentence = tamper(whole)
    found = [str(finding) for finding in verify(whole, known=KNOWN).findings]
    assert any(sentence in finding for finding in found), found
    assert all("\n" not in finding for finding in found)


def test_an_untouched_folder_fits_and_nothing_is_written(whole):
    before = {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()}
    verdict = verify(whole, known=KNOWN)
    assert (verdict.findings, verdict.records, verdict.tables, verdict.unchecked_pictures) == ([], 6, 1, 0)
    assert {path: path.read_bytes() for path in whole.rglob("*") if path.is_file()} == before


def test_failed_runs_and_their_traces_fit(whole):
    record = make_record(make_spec(seed=5), accuracy=None)
    Results(whole).write(record)
    (whole / record.run / "traceback.txt").write_text("...", encoding="utf-8")
    (whole / record.run / "checkpoint.pt").write_bytes(b"...")
    (whole / record.run / "events.jsonl").write_text("{}\n", encoding="utf-8")
    (whole / "README.md").write_text("On what they were measured.", encoding="utf-8")
    remade_table(whole)
    assert verify(whole, known=KNOWN).findings == []


def test_a_table_from_another_version_of_a_library_may_differ_in_the_last_digit(whole):
    mean = 100 * (300 + 301 + 302) / 3 / IMAGES
    path = whole / "leaderboard.csv"
    cells = path.read_text(encoding="utf-8").replace("\n", ",").split(",")
    written = next(cell for cell in cells if cell.startswith(f"{mean:.3f}"))
    edit_cell(whole, written, repr(float(written) * (1 + 1e-12)))
    assert verify(whole, known=KNOWN).findings == []


@pytest.mark.parametrize("name", ["bank.safetensors", "student.safetensors"])
def test_what_a_run_keeps_on_demand_is_no_stranger(whole, name):
    (first_run(whole) / name).write_bytes(b"images or weights")
    assert verify(whole, known=KNOWN).findings == []


def test_the_repositorys_own_results_fit():
    done = cli("verify", ROOT / "results" / "reference")
    assert done.code == 0, done.out
    assert "everything fits" in done.out


def test_the_command_prints_each_finding_and_exits_with_1(whole):
    swapped_image(whole)
    (whole / "extra.json").write_text("{}", encoding="utf-8")
    for place in ((whole,), ("--results", whole)):
        done = cli("verify", *place)
        assert done.code == 1
        assert done.out.splitlines()[-1] == "6 records and 1 tables: 2 things do not fit"
        assert f"{first_run(whole) / 'images.png'}: bytes do not fit images_sha256" in done.out


def test_a_grid_file_beside_the_results_says_which_runs_must_be_there(whole):
    text = 'methods = ["noise"]\npairs = ["resnet8:resnet8"]\nseeds = [0]\n'
    (whole / "grid.toml").write_text(text, encoding="utf-8")
    done = cli("verify", whole)
    assert done.code == 1
    assert "record.json is missing: a grid file asks for noise resnet8:resnet8 digits seed 0" in done.out


def test_markup_and_control_characters_of_a_record_stay_harmless(whole):
    edit(first_run(whole) / "record.json", images="\x1b[2J\n[red]x")
    done = cli("verify", whole)
    assert "\x1b" not in done.out
    assert "\\x1b[2J\\n[red]x" in done.out.replace("\\\\", "\\")


def test_two_names_of_a_folder_that_differ_are_refused(whole, tmp_path):
    assert "name two results folders" in cli("verify", whole, "--results", tmp_path).sentence()
    assert "there is no results folder" in cli("verify", tmp_path / "nothing").sentence()
