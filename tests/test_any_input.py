"""Whatever is written in a file or an option: our own object, or one sentence. By rule, with Hypothesis."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.e2e_kit import PAIR, make_record, make_spec
from test_odd_files import card

from dfkd_bench import DfkdError, api
from dfkd_bench.foreign import check_plain, parse_json
from dfkd_bench.leaderboard.build import build_table
from dfkd_bench.results.progress_file import Progress, read
from dfkd_bench.results.records import Record, Results
from dfkd_bench.results.status import run_states
from dfkd_bench.teachers.store import TeacherCard, TeacherStore
from dfkd_bench.workbench import Workbench

few = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)

numbers = st.one_of(
    st.integers(),
    st.floats(),
    st.sampled_from([0, -1, 3, 10**18, 10**30, 10**400, 1e300, -1e-300, float("nan"), float("inf"), True]),
)
texts = st.one_of(
    st.text(max_size=20), st.sampled_from(["", "none", "nan", "9" * 400, "[/red]", "\x1b[31m", "a:b", "~x"])
)
plain = st.recursive(
    st.one_of(st.none(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=8,
)


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in plain data."""
    yield at
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield from places(value[key], (*at, key))


@st.composite
def changed(draw: Any, good: Any) -> Any:
    """Plain data that is as it should be, but for one place, where anything stands, or nothing."""
    value = deepcopy(good)
    *before, last = draw(st.sampled_from([at for at in places(value) if at]))
    inner = functools.reduce(lambda one, key: one[key], before, value)
    if draw(st.booleans()):
        inner[last] = draw(plain)
    else:
        del inner[last]
    return value


def written(value: Any) -> bytes:
    return json.dumps(value).encode()


GOOD_RECORD = make_record().model_dump(mode="json")
OLD_RECORD = {
    **{name: value for name, value in GOOD_RECORD.items() if name != "curve_sha256"},
    "schema_version": 1,
    "curve": [point.model_dump(mode="json") for point in make_record().curve()],
}
GOOD_CARD = card().model_dump(mode="json")
GOOD_PROGRESS = Progress.begin(make_spec(), {}, make_record().environment).model_dump(mode="json")


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """One for all examples: each writes its files anew."""
    with tempfile.TemporaryDirectory() as made:
        yield Path(made)


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@given(st.one_of(changed(GOOD_RECORD), changed(OLD_RECORD), plain).map(written) | st.binary(max_size=50))
@few
def test_any_record_is_a_record_or_a_sentence(folder, content):
    results = Results(folder / "records")
    put(results.path / make_spec().hash / "record.json", content)
    odd: list[DfkdError] = []
    records = list(results.records(odd.append))
    assert len(records) + len(odd) == 1
    assert len(run_states(results, report=odd.append)) + len(odd) >= 1
    assert all(str(results.path) in str(error) for error in odd)
    for record in records:
        again = Record.model_validate_json(record.model_dump_json())  # what was read can be written and read again
        assert again == record
    assert build_table([*records, make_record(make_spec(seed=1))]).runs >= 1


@given(st.one_of(changed(GOOD_CARD), plain).map(written) | st.binary(max_size=50))
@few
def test_any_teacher_card_is_a_card_or_a_sentence(folder, content):
    path = put(folder / "teachers" / "one" / "card.json", content)
    store = TeacherStore(folder / "teachers", None, None)  # type: ignore[arg-type] - neither is asked
    odd: list[DfkdError] = []
    found = list(store.cards(odd.append))
    assert len(found) + len(odd) == 1
    assert all(str(path) in str(error) for error in odd)
    for _, one in found:
        assert TeacherCard.model_validate_json(one.model_dump_json()) == one


@given(st.one_of(changed(GOOD_PROGRESS), plain).map(written) | st.binary(max_size=50))
@few
def test_any_progress_file_is_progress_or_a_sentence(folder, content):
    results = Results(folder / "progress")
    put(results.path / make_spec().hash / "progress.json", content)
    odd: list[DfkdError] = []
    found = read(results, make_spec().hash, odd.append)
    assert (found is None) == (len(odd) == 1)
    (state,) = run_states(results, report=odd.append)
    assert state.state == "interrupted"
    if found is not None:
        found.record("killed", "on purpose")


@given(st.one_of(changed({"f" * 16: "a", "e" * 16: "b"}), plain).map(written) | st.binary(max_size=50))
@few
def test_any_plan_is_titles_or_a_sentence(folder, content):
    results = Results(folder / "plans")
    path = put(results.path / ".plans" / "one.json", content)
    odd: list[DfkdError] = []
    states = run_states(results, report=odd.append)
    assert all(str(path) in str(error) for error in odd)
    assert all(state.state == "waiting" for state in states)


def toml(value: Any) -> str:
    """A value as TOML; what TOML has no word for is a text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{', '.join(map(toml, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{toml(str(key))} = {toml(each)}' for key, each in value.items())}}}"
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")


GOOD_GRID = {
    "pairs": [PAIR, "resnet8:wrn16_1"],
    "methods": ["noise"],
    "method": [
        {"name": "cmi", "label": "ours", "preset": "quick", "synthesizer": {"steps": 3}, "schedule": {"epochs": 2}}
    ],
    "datasets": ["digits"],
    "seeds": [0, 1],
    "presets": ["quick"],
    "protocols": ["native"],
    "schedule": {"lr": 0.1},
    "teachers": {"digits": {"resnet8": "none.pth"}},
}


@pytest.fixture(scope="module")
def workbench(folder: Path) -> Workbench:
    return Workbench.make(results=folder / "results", teachers=folder / "teachers", device="cpu", precision="fp32")


@given(
    changed(GOOD_GRID).map(lambda grid: "\n".join(f"{key} = {toml(value)}" for key, value in grid.items()).encode())
    | st.dictionaries(st.sampled_from(sorted(GOOD_GRID)), plain, max_size=4).map(
        lambda grid: "\n".join(f"{key} = {toml(value)}" for key, value in grid.items()).encode()
    )
    | st.binary(max_size=50)
)
@few
def test_any_grid_file_is_runs_or_sentences(folder, workbench, content):
    path = put(folder / "grid.toml", content)
    try:
        planned = api.plan_grid(workbench, path)
    except DfkdError as error:
        assert all(str(path) in sentence for sentence in error.sentences)
    else:
        assert planned


OPTIONS = [
    "schedule.epochs", "schedule.lr", "schedule.lr_schedule", "schedule.bank_capacity", "schedule.nesterov",
    "synthesizer.batch_size", "synthesizer.lr", "synthesizer.steps", "distiller.tau", "no.such", "synthesizer.", "",
]  # fmt: skip


@given(st.sampled_from(OPTIONS), st.one_of(texts, st.text(st.characters(), max_size=20), plain))
@few
def test_any_option_value_is_taken_or_refused_in_a_sentence(workbench, option, value):
    text = value if isinstance(value, str) else json.dumps(value)
    try:
        found = api.plan(workbench, ["cmi"], [PAIR], overrides=[f"{option}={text}"])
    except DfkdError as error:
        assert str(error)
    else:
        assert check_plain(found[0].model_dump(mode="json")) is None


@given(plain)
@few
def test_parsed_data_is_as_json_reads_it_or_holds_a_number_that_is_none(value):
    text = json.dumps(value)
    try:
        found = parse_json(text, "it")
    except DfkdError as error:
        assert "not finite" in str(error) or "no value" in str(error)
    else:
        assert found == json.loads(text)
        assert check_plain(found) is None
