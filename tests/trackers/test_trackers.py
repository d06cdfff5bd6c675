"""Trackers, fed with the events of a run made by hand, and once with those of a real one."""

from __future__ import annotations

import json
import sys
from importlib.metadata import EntryPoint, entry_points

import pytest
from support.e2e_kit import (
    cli,
    make_record,
    make_spec,
    own_cache,  # noqa: F401
    registry_with,
    small_recipe,  # noqa: F401
    teachers_folder,
    tiny,
)
from support.sharing_kit import KNOWN, write_run

from dfkd_bench import DfkdError, hookimpl
from dfkd_bench.hooks.events import RunEvent
from dfkd_bench.hooks.registry import PluginRow, Registry
from dfkd_bench.hooks.trackers import tracking
from dfkd_bench.sharing.verify import verify

SPEC = make_spec()


@pytest.fixture(scope="module")
def registry() -> Registry:
    """Everything installed, and the trackers where an older installation lacks them."""
    known = {point.name for point in entry_points(group="dfkd_bench")}
    missing = [] if "trackers" in known else [EntryPoint("trackers", "dfkd_trackers", "dfkd_bench")]
    return registry_with(*missing)


def event(kind, data=None, run=SPEC.hash):
    return RunEvent(kind, run, SPEC.title, data or {})


def story(record):
    """What an engine tells of a run of two epochs."""
    yield event("phase", {"phase": "teacher training"}, run="resnet8-digits")
    yield event("started")
    yield event("phase", {"phase": "synthesizer", "round": 0})
    for point in record.curve():
        for step in range(100):
            yield event("progress", {"phase": "distillation", "done": step + 1, "total": 100})
        yield event("epoch", {**point.model_dump(), "epochs": 2})
    yield event("finished", {"reason": None, "record": record})


def track(registry, name, results, events):
    said = []
    with tracking(registry, [name], results, said.append):
        for each in events:
            registry.emit(each)
    return said


def test_events_become_lines_of_json_beside_the_record(registry, tmp_path):
    record = write_run(tmp_path)
    assert track(registry, "jsonl", tmp_path, story(record)) == []
    text = (tmp_path / record.run / "events.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    kinds = [line["event"] for line in lines]
    assert [kind for kind in kinds if kind != "progress"] == ["started", "phase", "epoch", "epoch", "finished"]
    assert 2 <= kinds.count("progress") < 20  # 200 steps in a moment
    assert {line["run"] for line in lines} == {record.run}
    assert [line["accuracy"] for line in lines if line["event"] == "epoch"] == [p.accuracy for p in record.curve()]
    assert lines[-1]["record"]["accuracy"]["last"] == record.accuracy.last
    assert [path.name for path in tmp_path.iterdir()] == [record.run]
    assert verify(tmp_path, known=KNOWN).findings == []
    # A second start of the run appends.
    track(registry, "jsonl", tmp_path, story(record))
    assert (tmp_path / record.run / "events.jsonl").read_text(encoding="utf-8").startswith(text)


def test_a_run_that_another_process_does_is_left_alone(registry, tmp_path):
    track(registry, "jsonl", tmp_path, [event("phase", {"phase": "waiting for another process"})])
    assert list(tmp_path.iterdir()) == []


def scalars(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder), size_guidance={"histograms": 0, "scalars": 0})
    found.Reload()
    return found, {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


HISTOGRAMS = {
    "filter": {
        "low": 0.0,
        "high": 1.0,
        "rounds": [{"calls": 2, "seen": 10, "kept": 4, "counts": [1, 2, 3, 4]}],
    }
}


@pytest.mark.parametrize("heard_all", [True, False])
def test_tensorboard_gets_curve_bank_cost_picture_and_text(registry, tmp_path, heard_all):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    record = write_run(tmp_path)
    events = story(record) if heard_all else [event("finished", {"reason": None, "record": record})]
    assert track(registry, "tensorboard", tmp_path, events) == []
    found, values = scalars(tmp_path / record.run / "tensorboard")
    for tag, name in (("test/accuracy", "accuracy"), ("train/lr", "lr"), ("test/agreement", "agreement")):
        assert values[tag] == [(p.epoch, pytest.approx(getattr(p, name))) for p in record.curve()]
    assert values["loss/kd"] == [(1, pytest.approx(1.5)), (2, pytest.approx(1.5))]
    assert values["bank/synthesized"] == [(2, 16.0)]
    assert values["cost/evaluation/flops"] == [(2, 5.0)]
    (picture,) = found.Images("images")
    assert (picture.width, picture.height, picture.step) == (8, 8, 2)
    assert any("noise" in part.decode() for part in found.Tensors("spec/text_summary")[0].tensor_proto.string_val)
    assert verify(tmp_path, known=KNOWN).findings == []


def test_filters_histograms_become_histograms(tmp_path):
    pytest.importorskip("tensorboard", reason="the extra tensorboard is not installed")
    from torch.utils.tensorboard import SummaryWriter

    from dfkd_trackers.tensorboard import _add_histogram, _histograms

    joined = {"filter": {"cosine": HISTOGRAMS["filter"], "agreement": {"note": 1}}, "augmenter": {"size": [8, 8]}}
    assert [tag for tag, _ in _histograms(HISTOGRAMS)] == ["filter"]
    ((tag, said),) = _histograms(joined)
    assert tag == "filter/cosine"
    writer = SummaryWriter(str(tmp_path))
    _add_histogram(writer, tag, said)
    writer.close()
    found, values = scalars(tmp_path)
    (histogram,) = found.Histograms(tag)
    assert histogram.histogram_value.bucket == [1, 2, 3, 4]
    assert histogram.histogram_value.bucket_limit == [0.25, 0.5, 0.75, 1.0]
    # 1 at 1/8, 2 at 3/8, 3 at 5/8, 4 at 7/8.
    assert histogram.histogram_value.sum == pytest.approx((1 + 6 + 15 + 28) / 8)
    assert values[f"{tag}/kept_percent"] == [(2, 40.0)]


def test_a_missing_extra_is_one_sentence(registry, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    monkeypatch.delattr("torch.utils.tensorboard", raising=False)
    with pytest.raises(DfkdError, match=r"needs TensorBoard: pip install 'dfkd-bench\[tensorboard\]'$"):
        track(registry, "tensorboard", tmp_path, [])


class Broken:
    def __init__(self, results):
        if results.name == "refused":
            raise PermissionError("not here")
        self.heard = 0

    def hear(self, event):
        self.heard += 1
        raise ValueError(f"event {self.heard}\nis too much")

    def close(self):
        raise AssertionError("not called after it stopped")


@pytest.fixture
def with_broken():
    class Plugin:
        @hookimpl
        def dfkd_trackers(self, register):
            register("broken", Broken)

    registry = Registry([])
    registry.add(Plugin(), PluginRow("strange", "strange", "1"))
    return registry


def test_a_tracker_that_fails_is_named_once_and_told_no_more(with_broken, tmp_path):
    record = write_run(tmp_path)
    said = track(with_broken, "broken", tmp_path, story(record))
    assert said == ["the tracker 'broken' stopped (ValueError: event 1 is too much): the runs continue without it"]


def test_a_tracker_that_cannot_start_is_one_sentence(with_broken, tmp_path):
    with pytest.raises(DfkdError, match=r"'broken' cannot start \(PermissionError: not here\): leave out --tracker"):
        track(with_broken, "broken", tmp_path / "refused", [])
    with pytest.raises(DfkdError, match="unknown tracker 'brokn': did you mean broken"):
        track(with_broken, "brokn", tmp_path, [])


def test_nobody_listens_after_the_runs(with_broken, tmp_path):
    track(with_broken, "broken", tmp_path, [])
    with_broken.emit(event("started"))
    assert with_broken._listeners == []


@pytest.mark.usefixtures("small_recipe")
def test_the_command_line_turns_trackers_on_and_the_pictures_hash_is_in_the_record(registry, tmp_path, monkeypatch):
    monkeypatch.setattr("dfkd_bench.workbench.default_registry", lambda: registry)
    places = ("--results", tmp_path / "r", "--teachers", teachers_folder(), "--device", "cpu", "--precision", "fp32")
    sets = [part for text in tiny("noise", registry) for part in ("--set", text)]
    asked = ("run", "--method", "noise", "--pair", "resnet8:resnet8", *sets, *places)
    done = cli(*asked, "--tracker", "jsonl")
    assert done.code == 0, done
    (path,) = (tmp_path / "r").glob("*/events.jsonl")
    kinds = [json.loads(line)["event"] for line in path.read_text(encoding="utf-8").splitlines()]
    assert (kinds[0], kinds[-1], kinds.count("epoch")) == ("started", "finished", 2)
    # A whole run of today, with the hash of its picture.
    verdict = verify(tmp_path / "r", known=KNOWN)
    assert (verdict.findings, verdict.records, verdict.unchecked_pictures) == ([], 1, 0)
    assert "unknown tracker 'jsonll'" in cli(*asked, "--tracker", "jsonll").err


def test_a_record_without_its_curve_still_ends_the_file(registry, tmp_path):
    record = make_record(accuracy=None)
    (tmp_path / record.run).mkdir()
    ending = event("failed", {"reason": record.reason, "record": record})
    assert track(registry, "jsonl", tmp_path, [event("started"), ending]) == []
    last = json.loads((tmp_path / record.run / "events.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert (last["reason"], last["record"]["status"]) == ("RuntimeError: on purpose", "failed")
