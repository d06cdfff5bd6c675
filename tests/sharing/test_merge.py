from __future__ import annotations

import shutil

import pytest
from support.e2e_kit import cli, make_record, make_spec
from support.sharing_kit import KNOWN, OTHER, first_run, remade_table, write_run

from dfkd_bench.results.records import Environment, Results
from dfkd_bench.sharing import merge as module
from dfkd_bench.sharing.verify import verify


@pytest.fixture
def two(tmp_path):
    """Two folders with a method each."""
    for seed in range(2):
        write_run(tmp_path / "a", seed, 300 + seed)
        write_run(tmp_path / "b", seed, 320 + seed, spec=OTHER)
    return tmp_path / "a", tmp_path / "b"


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def refused(*command):
    done = cli("merge", *command)
    assert done.code == 1, done
    assert done.out.splitlines()[-1].startswith("nothing was merged: ")
    assert not command[-1].exists()
    assert not list(command[-1].parent.glob(".*merging"))
    return done.out


def test_two_folders_become_one_that_verifies(two, tmp_path):
    a, b = two
    before = contents(a), contents(b)
    done = cli("merge", a, b, "--into", tmp_path / "new" / "c")
    assert done.code == 0, done
    assert "4 runs (0 in more than one source) merged into" in done.out
    verdict = verify(tmp_path / "new" / "c", known=KNOWN)
    assert (verdict.findings, verdict.records, verdict.tables) == ([], 4, 1)
    merged = contents(tmp_path / "new" / "c")
    assert before[0].items() <= merged.items()
    assert before[1].items() <= merged.items()
    assert (contents(a), contents(b)) == before


def test_a_second_time_nothing_is_written(two, tmp_path):
    command = ("merge", *two, "--into", tmp_path / "c")
    assert cli(*command).code == 0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")}
    done = cli(*command)
    assert done.code == 0, done
    assert "are in it already" in done.out
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "c").rglob("*")} == before


def test_a_folder_that_holds_something_else_is_not_touched(two, tmp_path):
    into = tmp_path / "c"
    write_run(into, 9)
    before = contents(into)
    assert "holds something else than this merge" in cli("merge", *two, "--into", into).sentence()
    assert contents(into) == before
    assert "two results folders or more" in cli("merge", two[0], "--into", into).sentence()


def test_the_same_run_with_the_same_bytes_is_taken_once(two, tmp_path):
    a, b = two
    shutil.copytree(first_run(a), first_run(b))
    done = cli("merge", a, b, "--into", tmp_path / "c")
    assert "4 runs (1 in more than one source)" in done.out
    assert verify(tmp_path / "c", known=KNOWN).findings == []


def test_one_run_with_two_results_is_a_contradiction(two, tmp_path):
    a, b = two
    write_run(b, 0, 305)
    out = refused(a, b, "--into", tmp_path / "c")
    assert f"{first_run(b)}/record.json: accuracy of run {make_spec().hash} differs from that in {first_run(a)}" in out


def test_one_run_with_two_pictures_of_no_known_hash_is_a_contradiction(tmp_path):
    for name, hits in (("a", 300), ("b", 301)):
        write_run(tmp_path / name, 0, 300, images_sha256=None)
        shutil.rmtree(tmp_path / "other", ignore_errors=True)
        write_run(tmp_path / "other", 0, hits)
        shutil.copyfile(first_run(tmp_path / "other") / "images.png", first_run(tmp_path / name) / "images.png")
    out = refused(tmp_path / "a", tmp_path / "b", "--into", tmp_path / "c")
    assert f"{first_run(tmp_path / 'b')}/images.png: content differs from that of {first_run(tmp_path / 'a')}" in out


def test_teachers_of_one_name_that_differ_are_a_contradiction_even_for_other_students(tmp_path):
    recipe = {"teacher": {"recipe": {"epochs": 2, "batch_size": 32, "lr": 0.1, "seed": 0}}}
    write_run(tmp_path / "a", 0, spec=recipe)
    pair = {"pair": {"teacher": "resnet8", "student": "vgg8"}}
    write_run(tmp_path / "b", 0, spec=recipe | pair, teacher=make_record(sha256="c" * 64).teacher)
    out = refused(tmp_path / "a", tmp_path / "b", "--into", tmp_path / "c")
    assert f"teacher.sha256 is another teacher: it is {'c' * 64} here (1 of 2), {'a' * 64} in" in out


def test_a_source_that_does_not_fit_in_itself_is_refused(two, tmp_path):
    a, b = two
    (first_run(a) / "images.png").write_bytes(b"swapped")
    assert "images.png: bytes do not fit images_sha256" in refused(a, b, "--into", tmp_path / "c")
    (first_run(a) / "record.json").write_text("{", encoding="utf-8")
    assert "record.json: content is no valid record" in refused(a, b, "--into", tmp_path / "c")


def test_runs_without_a_record_are_named_and_left_out(two, tmp_path):
    a, b = two
    (a / "0123456789abcdef").mkdir()
    done = cli("merge", a, b, "--into", tmp_path / "c")
    assert done.code == 0
    assert f"left out: {a / '0123456789abcdef'} has no record" in done.out


def test_other_code_is_reported_and_merged(two, tmp_path):
    a, b = two
    old = make_record().environment.model_dump()
    write_run(b, 5, spec=OTHER, environment=Environment.model_validate({**old, "plugins": {"dfkd-bench": "7"}}))
    done = cli("merge", a, b, "--into", tmp_path / "c")
    assert done.code == 0
    assert f"  {a}: dfkd-bench 0\n  {b}: dfkd-bench 0; dfkd-bench 7\n" in done.out


def test_a_merge_that_breaks_off_leaves_nothing(two, tmp_path, monkeypatch):
    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_copy", full)
    sentence = cli("merge", *two, "--into", tmp_path / "c").sentence()
    assert sentence.endswith("(No space left on device); nothing was merged")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_a_merge_that_was_killed_is_named(two, tmp_path):
    (tmp_path / ".c.merging").mkdir()
    assert "another merge into" in cli("merge", *two, "--into", tmp_path / "c").sentence()
    assert not (tmp_path / "c").exists()


def test_failed_runs_keep_their_traces(two, tmp_path):
    a, b = two
    record = make_record(make_spec(seed=5), accuracy=None)
    Results(a).write(record)
    (a / record.run / "traceback.txt").write_text("why", encoding="utf-8")
    (a / record.run / "checkpoint.pt").write_bytes(b"large")
    remade_table(a)
    cli("merge", a, b, "--into", tmp_path / "c")
    assert sorted(path.name for path in (tmp_path / "c" / record.run).iterdir()) == ["record.json", "traceback.txt"]
