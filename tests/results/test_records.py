from __future__ import annotations

import json

import jsonschema
import pytest
from support.e2e_kit import cli, make_record, make_spec

from dfkd_bench import DfkdError
from dfkd_bench import spec as spec_module
from dfkd_bench.results.curves import CurvePoint, read_curve
from dfkd_bench.results.records import Record, Results, parse_record, read_record, schema
from dfkd_bench.spec import content_hash


@pytest.mark.parametrize("accuracy", [50.0, None])
def test_a_record_is_read_as_it_was_written(tmp_path, accuracy):
    record, results = make_record(accuracy=accuracy), Results(tmp_path / "new" / "results")
    path = results.write(record)
    assert path == tmp_path / "new" / "results" / record.run / "record.json"
    assert results.read(record.run) == record
    assert list(results.records()) == [record]
    names = ["curve.csv", "record.json"] if accuracy else ["record.json"]
    assert sorted(file.name for file in path.parent.iterdir()) == names
    assert results.read(record.run).curve() == record.curve()


def test_a_run_without_a_record_is_none(tmp_path):
    assert Results(tmp_path / "nothing").read("0" * 16) is None
    assert list(Results(tmp_path / "nothing").records()) == []


def test_every_record_keeps_the_schema_and_the_schema_refuses_what_is_none(tmp_path):
    promised = json.loads(schema())
    for accuracy in (50.0, None):
        written = json.loads(Results(tmp_path).write(make_record(accuracy=accuracy)).read_text(encoding="utf-8"))
        jsonschema.validate(written, promised)
        for key in ("spec", "status", "teacher", "cost"):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate({name: value for name, value in written.items() if name != key}, promised)
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**written, "more": 1}, promised)


def test_every_field_below_the_record_is_described_where_its_name_says_too_little():
    described = json.loads(schema())["properties"]
    for name in ("run", "reason", "priors", "test_split", "cost", "images"):
        assert described[name]["description"]


def damage(text: str) -> dict[str, bytes]:
    plain = json.loads(text)
    return {
        "cut": text[: len(text) // 2].encode(),
        "empty": b"",
        "no text": b"\xff\xfe" + text.encode(),
        "a field missing": json.dumps({key: value for key, value in plain.items() if key != "teacher"}).encode(),
        "a field too many": json.dumps({**plain, "more": 1}).encode(),
        "an outcome that there is not": json.dumps({**plain, "status": "splendid"}).encode(),
    }


@pytest.mark.parametrize("how", damage(make_record().model_dump_json()))
def test_a_damaged_record_is_one_sentence_that_names_the_file(tmp_path, how):
    results = Results(tmp_path)
    path = results.write(make_record())
    path.write_bytes(damage(path.read_text(encoding="utf-8"))[how])
    for read in (lambda: results.read(make_spec().hash), lambda: list(results.records())):
        with pytest.raises(DfkdError, match=r"record.json is no valid record \(.+\): move it away and run again$") as e:
            read()
        assert str(path) in str(e.value)
        assert "\n" not in str(e.value)


def test_a_spec_that_was_changed_by_hand_is_found_out(tmp_path):
    results = Results(tmp_path)
    path = results.write(make_record())
    plain = json.loads(path.read_text(encoding="utf-8"))
    plain["spec"]["schedule"]["epochs"] = 200
    path.write_text(json.dumps(plain), encoding="utf-8")
    for read in (lambda: results.read(make_spec().hash), lambda: list(results.records())):
        with pytest.raises(DfkdError, match=r"its spec's hash is [0-9a-f]{16}: it was changed by hand$"):
            read()


def test_without_times_drops_clock_and_memory_and_nothing_else():
    record = make_record()
    full, plain = record.model_dump(mode="json"), record.without_times()
    assert full.keys() - plain.keys() == {"started", "finished"}
    for phase in full["cost"]:
        assert full["cost"][phase].keys() - plain["cost"][phase].keys() == {"seconds", "peak_memory"}
        assert plain["cost"][phase] == {"images": 8, "forward": {"teacher": 8}, "backward": {}, "flops": 10**12}
    assert {key: value for key, value in plain.items() if key != "cost"} == {
        key: full[key] for key in plain if key != "cost"
    }
    assert record.cost["synthesis"]["seconds"] == 2.0  # the record itself is as it was


@pytest.mark.parametrize(
    "changes",
    [
        {"curve": ()},
        {"reason": "another"},
        {"test_split": "c" * 64},
        {"student_parameters": 7},
        {"images": "images.png"},
        {"cost": {"synthesis": {**make_record().cost["synthesis"], "flops": 1}}},
    ],
)
def test_without_times_still_sees_every_other_difference(changes):
    assert make_record(**changes).without_times() != make_record().without_times()


def test_records_in_sub_folders_are_found_in_the_order_of_their_paths(tmp_path):
    first, second = make_record(), make_record(make_spec(seed=1))
    Results(tmp_path / "reference").write(second)
    Results(tmp_path).write(first)
    found = list(Results(tmp_path).records())
    assert {record.run for record in found} == {first.run, second.run}
    assert found == [
        Record.model_validate_json(path.read_text(encoding="utf-8")) for path in sorted(tmp_path.rglob("record.json"))
    ]


CURVE = (
    CurvePoint(epoch=1, steps=3, lr=0.1, losses={"kd": 1 / 3}, accuracy=10.0, accuracy_top5=50.0, agreement=11.5),
    CurvePoint(
        epoch=2,
        steps=6,
        lr=0.05,
        losses={"kd": 1e-9, 'a "b", c\n': 2.5},
        accuracy=20.25,
        accuracy_top5=60.0,
        agreement=1,
    ),
)


def test_a_curve_comes_back_to_the_last_digit_whatever_its_losses_are_called(tmp_path):
    record = make_record(curve=CURVE)
    Results(tmp_path).write(record)
    found = Results(tmp_path).read(record.run)
    assert found.curve() == CURVE
    assert "curve" not in json.loads((tmp_path / record.run / "record.json").read_text(encoding="utf-8"))
    assert (
        (tmp_path / record.run / "curve.csv").read_text(encoding="utf-8").splitlines()[0].startswith("epoch,steps,lr")
    )


@pytest.mark.parametrize("damage", ["changed", "gone", "no text"])
def test_a_curve_that_is_not_the_records_is_one_sentence_that_names_the_file(tmp_path, damage):
    record = make_record(curve=CURVE)
    path = Results(tmp_path).write(record).with_name("curve.csv")
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes().replace(b"20.25", b"99.25") if damage == "changed" else b"\xff")
    found = Results(tmp_path).read(record.run)
    assert found == record
    with pytest.raises(DfkdError, match=r"the curve .*curve\.csv"):
        found.curve()


def test_a_curve_of_other_columns_is_refused(tmp_path):
    import hashlib

    path, text = tmp_path / "curve.csv", "a,b\n1,2\n"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DfkdError, match="has other columns than a curve"):
        read_curve(path, hashlib.sha256(text.encode()).hexdigest())


def test_a_record_without_epochs_leaves_no_curve_of_an_earlier_try(tmp_path):
    results = Results(tmp_path)
    path = results.write(make_record(curve=CURVE)).with_name("curve.csv")
    assert path.exists()
    results.write(make_record(accuracy=None))
    assert not path.exists()
    assert results.read(make_record().run).curve() == ()


def as_schema_1(record):
    """A record's text as it was written before its curve had a file of its own."""
    plain = record.model_dump(mode="json")
    plain["bank"]["synthesised"] = plain["bank"].pop("synthesized")
    del plain["curve_sha256"]
    curve = [point.model_dump(mode="json") for point in record.curve()]
    return json.dumps({**plain, "schema_version": 1, "curve": curve}, indent=1)


@pytest.mark.parametrize("changes", [{"curve": CURVE}, {"accuracy": None}])
def test_a_record_of_schema_1_is_read_as_one_of_schema_2(tmp_path, changes):
    record = make_record(**changes)
    path = tmp_path / record.run / "record.json"
    path.parent.mkdir()
    path.write_text(as_schema_1(record), encoding="utf-8")
    (found,) = Results(tmp_path).records()
    assert found == record
    assert found.curve() == record.curve()
    Results(tmp_path).write(found)
    assert Results(tmp_path).read(record.run).curve() == record.curve()


def test_the_oldest_records_do_not_say_their_last_good_epoch(tmp_path):
    record = make_record(curve=CURVE)
    plain = json.loads(as_schema_1(record))
    del plain["last_good_epoch"]
    path = tmp_path / "record.json"
    path.write_text(json.dumps(plain), encoding="utf-8")
    assert next(Results(tmp_path).records()).last_good_epoch == 2


def test_a_later_schema_is_refused(tmp_path):
    path = Results(tmp_path).write(make_record())
    path.write_text(
        path.read_text(encoding="utf-8").replace('"schema_version": 2', '"schema_version": 3'), encoding="utf-8"
    )
    with pytest.raises(DfkdError, match="schema_version"):
        Results(tmp_path).read(make_record().run)


def test_upgrade_writes_old_records_anew_and_touches_no_other(tmp_path):
    old, new = make_record(curve=CURVE), make_record(make_spec(seed=1))
    path = tmp_path / "reference" / "any-name" / "record.json"
    path.parent.mkdir(parents=True)
    path.write_text(as_schema_1(old), encoding="utf-8")
    present = Results(tmp_path).write(new)
    damaged = tmp_path / "damaged" / "record.json"
    damaged.parent.mkdir()
    damaged.write_text("{", encoding="utf-8")
    before = present.read_bytes()
    done = cli("upgrade", "--results", tmp_path)
    assert done.code == 1
    assert "1 records rewritten, 1 were current already" in done.out
    assert f"left out: {damaged} is no valid record" in done.err
    assert (present.read_bytes(), damaged.read_text(encoding="utf-8")) == (before, "{")
    assert json.loads(path.read_text(encoding="utf-8"))["schema_version"] == 2
    assert read_record(path).curve() == CURVE
    damaged.unlink()
    assert "0 records rewritten, 2 were" in cli("upgrade", "--results", tmp_path).out


def test_a_recalled_spec_is_the_one_that_would_be_read_from_scratch(tmp_path, monkeypatch):
    monkeypatch.setattr("dfkd_bench.spec._FAMILIES", spec_module.Memo())
    for seed in (0, 3, 4):
        for options in ({"x": 1}, {"x": 1.0}, {"x": True}, {"x": None}, {"x": "1"}, {"x": [1]}, {}):
            spec = make_spec(seed=seed, synthesizer={"name": "noise", "options": options})
            read = parse_record(tmp_path / "record.json", make_record(spec).model_dump_json().encode())
            assert repr(read.spec) == repr(spec)
            assert (read.spec.hash, read.spec.settings) == (content_hash(spec), spec.settings)
    assert len(spec_module._FAMILIES) == 7


@pytest.mark.parametrize("seed", [-1, 1.5, True, "1", None])
def test_a_seed_that_is_none_is_refused_of_a_recalled_spec_too(tmp_path, seed):
    path = tmp_path / "record.json"
    parse_record(path, make_record(make_spec(seed=1)).model_dump_json().encode())
    plain = make_record(make_spec(seed=1)).model_dump(mode="json")
    plain["spec"]["seed"] = seed
    if seed in ("1", True):  # what pydantic takes for 1
        assert parse_record(path, json.dumps(plain).encode()).spec == make_spec(seed=1)
        return
    with pytest.raises(DfkdError, match=r"spec\.seed"):
        parse_record(path, json.dumps(plain).encode())


def test_a_changed_seed_or_option_of_a_recalled_spec_is_found(tmp_path):
    path, text = tmp_path / "record.json", make_record(make_spec(seed=1)).model_dump_json()
    parse_record(path, text.encode())
    for old, new in (('"seed":1', '"seed":2'), ('"tau":20.0', '"tau":21.0'), ('"tau":20.0', '"tau":20')):
        assert old in text
        with pytest.raises(DfkdError, match="it was changed by hand"):
            parse_record(path, text.replace(old, new).encode())
