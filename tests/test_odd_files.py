"""Whatever lies in a folder: no traceback, no hang; the odd file is named and left out, the good ones are used."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from support.e2e_kit import (
    PAIR,
    bench,
    cli,
    make_record,
    make_spec,
    own_cache,  # noqa: F401
    specs,
    teacher_file,
)
from support.odd_files import ABSENT, ODD, snapshot

from dfkd_bench import DfkdError, api
from dfkd_bench.datasets.folder import open_folder
from dfkd_bench.datasets.parquet import read_labels
from dfkd_bench.foreign import parse_json, read_bytes
from dfkd_bench.results.records import Results
from dfkd_bench.results.status import run_states
from dfkd_bench.teachers.store import TeacherCard
from dfkd_bench.teachers.weights import find_weights, read_weights
from dfkd_bench.workbench import Workbench


def planner(results) -> Workbench:
    """For what needs no teacher."""
    return Workbench.make(results=results, teachers=results / "teachers", device="cpu", precision="fp32")


GOOD_GRID = f'pairs = ["{PAIR}"]\nmethods = ["noise"]\n'


@pytest.fixture(autouse=True)
def deadline():
    """What hangs fails."""

    def ring(*_):
        raise TimeoutError("this hangs")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(300)  # on a machine that is busy with other things; alone, all of them take seconds
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def named(errors: str, paths) -> None:
    """Each path has a line of its own, and no other line is there."""
    lines = errors.splitlines()
    for path in paths:
        assert sum(str(path) in line for line in lines) == 1, path
    assert len(lines) == len(paths)
    assert all(line.startswith("dfkd-bench: ") for line in lines)


@pytest.fixture
def odd_results(tmp_path):
    """Two sound records; and in a run's folder each, every odd file as a record; the paths of these."""
    folder = tmp_path / "results"
    for seed in range(2):
        Results(folder / "reference").write(make_record(make_spec(seed=seed), 50.0 + seed))
    paths = []
    for index, (kind, make) in enumerate(ODD.items()):
        run = folder / f"{index:016x}"
        run.mkdir()
        make(run / "record.json")
        paths += [run / "record.json"] * (kind != ABSENT)
    for name in ("round", "and", "about"):
        (folder / name).symlink_to(".")
    return folder, paths


@pytest.mark.parametrize("command", ["status", "leaderboard", "upgrade"])
def test_odd_records_are_named_and_left_out_and_stay_as_they_are(odd_results, command):
    folder, paths = odd_results
    before = snapshot(folder)
    done = cli(command, "--results", folder)
    assert done.code == 1, done
    named(done.err, paths)
    # The link to nothing stands in the folder of a run that has no record yet.
    shown = {"status": "3 runs: 2 done", "leaderboard": "1 rows in", "upgrade": "2 were current already"}
    assert shown[command] in done.out
    after = snapshot(folder)
    assert {path: after.get(path) for path in before} == before
    new = {path for path in set(after) - set(before) if "/.locks" not in path}
    assert new == ({str(folder / "leaderboard.csv")} if command == "leaderboard" else set())


def test_odd_plans_and_progress_files_take_nothing_with_them(tmp_path):
    Results(tmp_path).write(make_record())
    (tmp_path / ".plans").mkdir()
    good = {"f" * 16: "noise a:b c seed 1"}
    (tmp_path / ".plans" / "good.json").write_text(json.dumps(good), encoding="utf-8")
    odd = []
    for index, (kind, make) in enumerate(ODD.items()):
        path = tmp_path / ".plans" / f"{index}.json"
        make(path)
        run = tmp_path / f"{index:016x}"
        run.mkdir()
        make(run / "progress.json")
        # A link that leads nowhere is as good as no file.
        odd += [path, run / "progress.json"] if (run / "progress.json").exists() else [path] * (kind != ABSENT)
    before = snapshot(tmp_path)
    done = cli("status", "--results", tmp_path)
    named(done.err, odd)
    said = f"{len(ODD) + 2} runs: 1 done, 0 running, 0 failed, {len(ODD) - 2} interrupted, 3 waiting"
    assert done.out.splitlines()[0] == said
    assert snapshot(tmp_path) == before


def test_of_many_runs_those_with_odd_records_are_named_and_the_others_are_done(tmp_path):
    workbench, kinds = planner(tmp_path / "results"), list(ODD)
    planned = [run.spec for run in api.plan_grid(workbench, grid(tmp_path, f"seeds = {len(kinds) + 1}\n"))]
    paths = []
    for spec, kind in zip(planned, kinds, strict=False):
        path = workbench.results.folder(spec.hash) / "record.json"
        path.parent.mkdir(parents=True)
        ODD[kind](path)
        paths += [path] * (kind != ABSENT)
    before = snapshot(tmp_path)
    places = ("--results", tmp_path / "results", "--device", "cpu")
    done = cli("run", "--grid", tmp_path / "grid.toml", "--dry-run", *places)
    assert (done.code, f"{len(planned)} runs, 2 to do" in done.out) == (2, True), done
    named(done.err, paths)
    done = cli("grid", "emit", tmp_path / "grid.toml", "--results", tmp_path / "results")
    assert (done.code, len(done.out.splitlines())) == (1, 2)
    named(done.err, paths)
    assert snapshot(tmp_path) == before


def test_a_run_with_an_odd_record_does_not_keep_the_other_from_being_done(tmp_path):
    workbench = bench(tmp_path)
    first, second = specs(workbench, "noise", seeds=(0, 1))
    path = workbench.results.folder(first.hash) / "record.json"
    path.parent.mkdir()
    path.mkdir()
    outcome = api.run_grid([first, second], workbench, engine="inline")
    assert [record is not None for record in outcome.records] == [False, True]
    (problem,) = outcome.problems
    assert str(path) in problem
    assert path.is_dir()
    # The same for a progress file: told before the work, not after it.
    (third,) = specs(workbench, "noise", seeds=(2,))
    (workbench.results.folder(third.hash) / "progress.json").mkdir(parents=True)
    outcome = api.run_grid([third], workbench, engine="inline")
    assert "progress.json" in outcome.problems[0]


def test_another_runs_record_is_not_this_runs(tmp_path):
    path = Results(tmp_path).write(make_record())
    path.parent.rename(tmp_path / ("e" * 16))
    with pytest.raises(DfkdError, match=f"is the record of run {make_spec().hash}, not of {'e' * 16}"):
        Results(tmp_path).read("e" * 16)
    done = cli("status", "--results", tmp_path)
    assert (done.code, "0 done" in done.out) == (1, True)


def card() -> TeacherCard:
    return TeacherCard(
        model="resnet8",
        dataset="digits",
        num_classes=10,
        image_shape=(1, 16, 16),
        mean=(0.5,),
        std=(0.5,),
        sha256="a" * 64,
        accuracy=90.0,
        accuracy_top5=99.0,
        test_split="b" * 64,
        recipe=None,
        source="made by hand",
        environment=make_record().environment,
        made=datetime(2026, 1, 1, tzinfo=UTC),
    )


def test_odd_teacher_cards_are_named_and_the_good_one_is_listed(tmp_path):
    (tmp_path / "good").mkdir()
    (tmp_path / "good" / "card.json").write_text(card().model_dump_json(), encoding="utf-8")
    paths = []
    for index, (kind, make) in enumerate(ODD.items()):
        (tmp_path / f"odd-{index}").mkdir()
        path = tmp_path / f"odd-{index}" / "card.json"
        make(path)
        paths += [path] * (kind != ABSENT)
    before = snapshot(tmp_path)
    done = cli("teacher", "list", "--teachers", tmp_path)
    assert done.code == 1
    assert "made by hand" in done.out
    named(done.err, paths)
    assert snapshot(tmp_path) == before


def grid(tmp_path, more=""):
    path = tmp_path / "grid.toml"
    path.write_text(GOOD_GRID + more, encoding="utf-8")
    return path


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind != "blank"])
def test_an_odd_grid_file_is_sentences(tmp_path, kind):
    path = tmp_path / "grid.toml"
    ODD[kind](path)
    with pytest.raises(DfkdError) as caught:
        api.plan_grid(planner(tmp_path), path)
    assert all(str(path) in sentence for sentence in caught.value.sentences)


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("x = " + "[" * 3000 + "]" * 3000, "nested too deep"),
        ("x = " + "{a=" * 3000 + "1" + "}" * 3000, "nested too deep"),
        (".".join("a" * 5000) + " = 1", "nested more than 100 deep"),
        ("seeds = " + "9" * 5000, "too many digits"),
        ("seeds = 999999999999", "seeds = 999999999999 are too many: 10,000 at most"),
        ('[teachers.digits]\nresnet8 = "~nosuchuser/x"', "leads nowhere"),
        ('[teachers.digits]\nresnet8 = "a\\u0000b"', "zero byte"),
        ('datasets = ["folder:~nosuchuser/x"]', "leads nowhere"),
        (f'datasets = ["folder:{"x" * 5000}"]', "can be no path"),
    ],
    ids=str.split("arrays tables dots digits seeds user zero dataset long"),
)
def test_odd_content_of_a_grid_file_is_sentences(tmp_path, more, sentence):
    with pytest.raises(DfkdError, match=sentence):
        api.plan_grid(planner(tmp_path), grid(tmp_path, more))


def test_a_byte_order_mark_is_no_mistake(tmp_path):
    path = grid(tmp_path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert len(api.plan_grid(planner(tmp_path), path)) == 1
    record = Results(tmp_path).write(make_record())
    record.write_bytes(b"\xef\xbb\xbf" + record.read_bytes())
    assert Results(tmp_path).read(make_spec().hash) == make_record()


@pytest.mark.parametrize("kind", [kind for kind in ODD if kind not in ("another program's", ABSENT)])
def test_odd_files_beside_weights_and_images_are_one_sentence(tmp_path, kind, images):
    schemas = ("a later schema", "schema 1 with a number for a curve", "cut")
    (tmp_path / "model.safetensors").touch()
    ODD[kind](tmp_path / "config.json")
    with pytest.raises(DfkdError, match=r"config\.json" if kind not in schemas else r"\.(json|safetensors)"):
        find_weights(tmp_path)
    ODD[kind](images / "card.json")
    with pytest.raises(DfkdError, match=r"card\.json"):
        open_folder(images)


@pytest.fixture
def images(tmp_path):
    """A dataset of two gray images."""
    from PIL import Image

    for name in ("one", "two"):
        (tmp_path / "images" / "test" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "images" / "test" / name / "a.png")
    return tmp_path / "images"


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_curve_is_one_sentence(tmp_path, kind):
    path = Results(tmp_path).write(make_record()).with_name("curve.csv")
    path.unlink()
    ODD[kind](path)
    with pytest.raises(DfkdError, match=r"curve\.csv"):
        Results(tmp_path).read(make_spec().hash).curve()


@pytest.mark.parametrize("kind", ["a folder", "a link to itself", "a link to a device", "a pipe", "a socket"])
def test_weights_and_parquet_files_that_are_no_files_are_one_sentence(tmp_path, kind):
    for name in ("weights.pth", "weights.safetensors"):
        ODD[kind](tmp_path / name)
        with pytest.raises(DfkdError, match=name):
            read_weights(tmp_path / name)
    ODD[kind](tmp_path / "test-0.parquet")
    with pytest.raises(DfkdError, match=r"test-0\.parquet"):
        open_folder(tmp_path)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: torch.zeros(2, device="meta"), "meta"),
        (lambda: torch.eye(2).to_sparse(), "sparse_coo"),
        (lambda: torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8), "quantized"),
    ],
    ids=["meta", "sparse", "quantized"],
)
@pytest.mark.filterwarnings("ignore")
def test_tensors_without_plain_values_are_one_sentence(tmp_path, make, kind):
    torch.save({"fine": torch.zeros(1), "odd": make()}, tmp_path / "a.pth")
    with pytest.raises(DfkdError, match=rf"a\.pth holds 'odd' as a {kind} tensor"):
        read_weights(tmp_path / "a.pth")


@pytest.mark.parametrize("labels", [[0, 6_000_000_000], [0, 2**64 - 1], [0, -1], [0, 10**6]])
def test_labels_that_number_no_classes_are_one_sentence(tmp_path, labels):
    kind = pa.uint64() if max(labels) > 2**63 else pa.int64()
    shown = pa.array([{"bytes": b"", "path": ""}] * 2)
    pq.write_table(pa.table({"image": shown, "label": pa.array(labels, kind)}), tmp_path / "test-0.parquet")
    with pytest.raises(DfkdError, match=rf"test-0\.parquet row 1 has the label {labels[1]}"):
        open_folder(tmp_path)
    small = pa.table({"label": pa.array([3, 4], pa.uint64())})
    pq.write_table(small, tmp_path / "small.parquet")
    read = read_labels(tmp_path / "small.parquet", "label")
    assert (read.tolist(), read.dtype) == ([3, 4], np.int64)


def test_paths_that_cannot_be_are_one_sentence(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    odd = ["~nosuchuser/x", "x" * 5000, "/" + "a/" * 2500, str(tmp_path / "loop"), "x" * 300, "\udc80"]
    for path in odd:
        asked = ("run", "--method", "noise", "--pair", PAIR, "--device", "cpu", "--dry-run", "--results", tmp_path)
        for more in (("--dataset", f"folder:{path}"), ("--teacher", path)):
            assert cli(*asked, *more).sentence()
        for command in ("status", "leaderboard", "upgrade"):
            assert cli(command, "--results", path).sentence()
        assert cli("teacher", "list", "--teachers", path).code in (0, 2)
        assert cli("run", "--grid", path, "--dry-run", "--device", "cpu").sentence()


def test_a_file_that_grew_too_large_is_not_read(tmp_path):
    (tmp_path / "file").write_bytes(bytes(100))
    assert read_bytes(tmp_path / "file", 100) == bytes(100)
    with pytest.raises(DfkdError, match="has 100 bytes, and at most 99 are read"):
        read_bytes(tmp_path / "file", 99)


def test_the_import_of_a_teacher_with_an_odd_configuration_leaves_the_store_as_it_was(tmp_path):
    weights = teacher_file()
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.safetensors").write_bytes(weights.read_bytes())
    (tmp_path / "model" / "config.json").write_text('{"pretrained_cfg": {"mean": [NaN], "std": [1]}}', encoding="utf-8")
    store = tmp_path / "teachers"
    asked = ("teacher", "import", tmp_path / "model", "--model", "resnet8", "--dataset", "digits", "--device", "cpu")
    assert "pretrained_cfg.mean.0=nan: it is not finite" in cli(*asked, "--teachers", store).sentence()
    assert not store.exists()


def test_the_python_interface_raises_where_nobody_is_told(odd_results):
    folder, _ = odd_results
    with pytest.raises(DfkdError):
        run_states(folder)
    with pytest.raises(DfkdError):
        list(Results(folder).records())


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ('{"a": [0, 1e101]}', "a.1: a number of such a size is no value"),
        (f'{{"a": {10**101}}}', "a: a number of such a size is no value"),
        ('{"a": -Infinity}', "a=-inf: it is not finite"),
        ("NaN", "its content=nan: it is not finite"),
        ('{"a": ' + "[" * 100 + "]" * 100 + "}", "a: nested more than 100 deep"),
        (b"\xff", "byte 0 is not UTF-8"),
        ("{", "Invalid JSON: "),
    ],
)
def test_what_json_may_hold(content, reason):
    with pytest.raises(DfkdError, match=r"^it cannot be used \(.*\): fix it$") as caught:
        parse_json(content, "it")
    assert f"({reason}" in str(caught.value)
    fine = {"a": [1, -(10**99), 1e99, True, None, "NaN"], "b": [[[]]] * 3}
    assert parse_json(json.dumps(fine).encode(), "it") == fine
    assert parse_json("[" * 100 + "]" * 100, "it")
