from __future__ import annotations

import os

import pytest
from support.e2e_kit import cli, make_record, make_spec

from dfkd_bench import DfkdError, api
from dfkd_bench.results.curves import CurvePoint
from dfkd_bench.results.estimate import Estimate, estimate, in_words
from dfkd_bench.results.records import Results, read_record
from dfkd_bench.spec import SeedFamily, content_hash


def point(epoch):
    return CurvePoint(
        epoch=epoch, steps=3, lr=0.1, losses={'a"]\n ],': 1.5}, accuracy=1.0, accuracy_top5=2.0, agreement=3.0
    )


def some_records():
    """Seeds, settings, a failure, long and empty curves, words that look like fields."""
    long = tuple(point(epoch) for epoch in range(1, 300))
    odd = make_spec(method='x\n "curve": [\n', teacher={"recipe": {"seed": 5}})
    yield from (make_record(make_spec(seed=seed), 10.0 + seed, curve=long) for seed in (0, 3, 12))
    yield make_record(make_spec(seed=4), None, reason='no\n "spec": {\n\n "curve": [\n')
    yield make_record(odd, 20.0)
    yield make_record(odd.with_seeds([7])[0], 30.0, curve=long)
    yield make_record(make_spec(protocol="matched"), 40.0)


def test_records_come_in_the_order_of_their_paths_wherever_they_lie(tmp_path, monkeypatch):
    """More than are read ahead; in sub-folders; in a folder of another name; where nothing was written yet."""
    monkeypatch.setattr("dfkd_bench.results.scan._PORTION", 4)
    many = [make_record(make_spec(seed=seed)) for seed in range(150)]
    for index, record in enumerate(many):
        Results(tmp_path / ("reference/one" if index % 3 else "")).write(record)
    kept = tmp_path / "kept-by-hand"
    kept.mkdir()
    (kept / "record.json").write_bytes((tmp_path / many[0].run / "record.json").read_bytes())
    (tmp_path / ("0" * 16)).mkdir()  # a run that has no record yet
    hidden = tmp_path / ".locks"
    hidden.mkdir()
    (hidden / "record.json").write_text("{", encoding="utf-8")
    found = [entry.run for entry in Results(tmp_path).records(pytest.fail)]
    shallow, deep = (sorted(r.run for i, r in enumerate(many) if bool(i % 3) is inner) for inner in (False, True))
    assert found == [*shallow, many[0].run, *deep]
    assert list(Results(tmp_path / "nothing").records(pytest.fail)) == []


def test_a_run_s_folder_that_cannot_be_read_is_told(tmp_path, monkeypatch):
    Results(tmp_path).write(make_record())
    locked = Results(tmp_path).write(make_record(make_spec(seed=1)))
    real = os.open

    def guarded(path, *args, **kwargs):
        if str(path) == str(locked):
            raise PermissionError(13, "Permission denied")
        return real(path, *args, **kwargs)

    monkeypatch.setattr("os.open", guarded)
    told = []
    assert [entry.spec.seed for entry in Results(tmp_path).records(told.append)] == [0]
    assert [str(error) for error in told] == [f"cannot read {locked} (Permission denied)"]


def test_seeds_of_a_family_have_the_hashes_that_they_have_alone():
    for spec in (make_spec(seed=9), make_spec(teacher={"recipe": {"seed": 9}}, protocol="matched")):
        assert spec.hash == content_hash(spec)  # cached, and copied by pydantic
        for seed in (0, 9, 10**12):
            member = SeedFamily(spec).member(seed)
            alone = type(spec).model_validate({**spec.model_dump(), "seed": seed})
            assert member == alone
            assert member.hash == alone.hash == content_hash(alone)
            assert member.settings == alone.settings == spec.settings
    assert make_spec(seed=1, preset="paper").settings != make_spec(seed=1).settings


def break_one(results):
    """Seven sound records and three damaged ones; the paths of those."""
    for record in some_records():
        results.write(record)
    cut = results.write(make_record(make_spec(seed=50)))
    cut.write_bytes(cut.read_bytes()[:-300])
    changed = results.write(make_record(make_spec(seed=51)))
    changed.write_text(changed.read_text().replace('"epochs": 2', '"epochs": 200'), encoding="utf-8")
    empty = results.write(make_record(make_spec(seed=52)))
    empty.write_bytes(b"")
    return cut, changed, empty


def test_a_damaged_record_is_told_and_the_others_are_shown(tmp_path):
    broken = break_one(Results(tmp_path))
    done = cli("leaderboard", "--results", tmp_path)
    assert done.code == 1
    assert len(done.err.splitlines()) == 3
    for path in broken:
        (line,) = [line for line in done.err.splitlines() if str(path) in line]
        assert line.startswith("dfkd-bench: left out: ")
    assert "3 rows in" in done.out
    for path in broken:
        path.unlink()
    whole = cli("leaderboard", "--results", tmp_path)
    assert (whole.code, whole.err) == (0, "")
    assert whole.out == done.out


def test_only_damaged_records_leave_the_old_table_alone(tmp_path):
    path = Results(tmp_path).write(make_record())
    assert cli("leaderboard", "--results", tmp_path).code == 0
    before = (tmp_path / "leaderboard.csv").read_bytes()
    path.write_bytes(b"{")
    done = cli("leaderboard", "--results", tmp_path)
    assert (done.code, done.out) == (1, "")
    assert (tmp_path / "leaderboard.csv").read_bytes() == before


def test_a_run_whose_own_record_is_damaged_is_refused_and_the_file_stays(tmp_path):
    asked = ("run", "--method", "noise", "--pair", "resnet8:resnet8", "--device", "cpu", "--results", tmp_path)
    run = cli(*asked, "--dry-run").out.splitlines()[1].split()[0]
    (tmp_path / run).mkdir()
    (tmp_path / run / "record.json").write_bytes(b"{")
    for more in ((), ("--dry-run",)):
        assert "record.json is no valid record" in cli(*asked, *more).sentence()
    assert (tmp_path / run / "record.json").read_bytes() == b"{"


def test_a_folder_in_the_records_place_is_a_sentence(tmp_path):
    (tmp_path / "record.json").mkdir()
    told = []
    assert list(Results(tmp_path).records(told.append)) == []
    with pytest.raises(DfkdError, match=r"^cannot read .*record.json"):
        read_record(tmp_path / "record.json")
    assert len(told) == 1
    assert str(told[0]).startswith("cannot read ")
    assert read_record(tmp_path / "none" / "record.json") is None


def left(todo, done, **here):
    return estimate(todo, done, make_record(make_spec()).environment.model_copy(update=here))


def lasting(spec, seconds, accuracy=50.0):
    phase = {"images": 8, "forward": {}, "backward": {}, "flops": 1, "peak_memory": 1}
    cost = {"synthesis": {**phase, "seconds": seconds / 4}, "distillation": {**phase, "seconds": 3 * seconds / 4}}
    return make_record(spec, accuracy, cost=cost)


def test_the_estimate_is_the_mean_of_runs_that_differ_in_the_seed_alone():
    done = [lasting(make_spec(seed=0), 100.0), lasting(make_spec(seed=1), 300.0)]
    todo = [make_spec(seed=2), make_spec(seed=3)]
    assert left(todo, done) == Estimate(400.0, 2, 2)
    others = [
        make_spec(protocol="matched"), make_spec(preset="paper"), make_spec(dataset="cifar10"), make_spec(method="cmi"),
        make_spec(pair={"teacher": "resnet8", "student": "vgg8"}),
    ]  # fmt: skip
    assert left([*todo, *others], done) == Estimate(400.0, 2, 7)


def test_other_hardware_precision_and_failures_measure_nothing():
    done = [lasting(make_spec(seed=0), 100.0)]
    assert left([make_spec(seed=1)], done, hardware="another").measured == 0
    assert left([make_spec(seed=1)], done, precision="bf16").measured == 0
    assert left([make_spec(seed=1)], done, compiled=True).measured == 0
    assert left([make_spec(seed=1)], [lasting(make_spec(), 100.0, accuracy=None)]).measured == 0


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "1 s"), (59.4, "59 s"), (60, "1 min"), (3569, "59 min"), (3599, "1 h"), (12_000, "3 h 20 min"),
        (47 * 3600, "47 h"), (51 * 3600, "2 days 3 h"), (48 * 3600, "2 days"),
    ],
)  # fmt: skip
def test_times_are_told_as_people_tell_them(seconds, words):
    assert in_words(seconds) == words


def test_the_estimate_in_words():
    assert (
        Estimate(12_000, 41, 60).sentence()
        == "about 3 h 20 min for 41 of 60 runs; no estimate for 19, since no comparable run was measured"
    )
    assert (
        Estimate(60, 1, 2).sentence()
        == "about 1 min for 1 of 2 runs; no estimate for 1, since no comparable run was measured"
    )
    assert Estimate(60, 3, 3).sentence() == "about 1 min for 3 runs, one after another"
    assert Estimate(0, 0, 1).sentence().startswith("no estimate for 1 run: ")


def test_a_dry_run_estimates_what_is_left(tmp_path):
    from dfkd_bench.environment import describe
    from dfkd_bench.workbench import Workbench

    workbench = Workbench.make(results=tmp_path, device="cpu", precision="fp32")
    pair = "resnet8:resnet8"
    first, *_ = api.plan(workbench, ["noise"], [pair], seeds=range(3))
    here = describe(workbench.execution, workbench.registry)
    workbench.results.write(lasting(first, 600.0).model_copy(update={"environment": here}))
    asked = ("--pair", pair, "--seeds", "3", "--device", "cpu", "--precision", "fp32", "--results", tmp_path)
    shown = cli("run", "--method", "noise", "--method", "cmi", *asked, "--dry-run")
    assert shown.code == 0, shown
    assert "6 runs, 5 to do" in shown.out
    assert "left: about 20 min for 2 of 5 runs; no estimate for 3, since no comparable run was measured" in shown.out
