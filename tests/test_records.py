from __future__ import annotations

import json

import jsonschema
import pytest
from e2e_kit import make_record, make_spec

from dfkd_bench import DfkdError
from dfkd_bench.records import Record, Results, schema


@pytest.mark.parametrize("accuracy", [50.0, None])
def test_a_record_is_read_as_it_was_written(tmp_path, accuracy):
    record, results = make_record(accuracy=accuracy), Results(tmp_path / "new" / "results")
    path = results.write(record)
    assert path == tmp_path / "new" / "results" / record.run / "record.json"
    assert results.read(record.run) == record
    assert list(results.records()) == [record]
    assert [file.name for file in path.parent.iterdir()] == ["record.json"]


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
        {"cost": {"synthesis": {"flops": 1}}},
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
