"""What plugins hear of a run is what `hooks.events` says; and a stream's own pool."""

from __future__ import annotations

from collections import deque
from pathlib import Path
from typing import get_type_hints

import pytest
from pydantic import create_model
from support.e2e_kit import bench, listening, own_cache, registry_with, specs  # noqa: F401
from support.faulty_stages import FaultOptions, gray

from dfkd_bench import RunSpec, Synthesizer
from dfkd_bench.hooks import events
from dfkd_bench.results.records import Record
from dfkd_bench.runs.runner import run_spec


def check_data(event):
    """Exactly the fields that its kind has, of their types."""
    form = events.DATA[event.kind]
    assert form.__required_keys__ <= set(event.data) <= form.__required_keys__ | form.__optional_keys__, event
    hints = get_type_hints(form, localns={"Record": Record})
    fields = [(name, hints[name]) for name in event.data]
    model = create_model(
        "Data", __config__={"arbitrary_types_allowed": True}, **{name: (kind, ...) for name, kind in fields}
    )
    model.model_validate(dict(event.data), strict=True)


def test_each_event_holds_what_is_written_of_its_kind(tmp_path):
    workbench, heard = bench(tmp_path), []
    (spec,) = specs(workbench, "dda")
    with listening(workbench.registry, heard.append):
        run_spec(spec, workbench.results, workbench.store)
    for event in heard:
        check_data(event)
    assert {event.kind for event in heard} == {"started", "phase", "progress", "epoch", "finished"}
    started = heard[0].data
    assert RunSpec.model_validate(started["spec"]) == spec
    assert (Path(started["folder"]) / "record.json").is_file()


class Pooled(Synthesizer[FaultOptions]):
    """A stream that keeps its last images."""

    Options = FaultOptions
    stream = True
    honest = True

    def __init__(self, options, context):
        super().__init__(options, context)
        self.kept = deque(maxlen=context.bank_capacity if self.honest else None)

    def synthesize(self, round):
        batch = gray(self.context)
        self.kept.extend(batch.images)
        return batch

    def sample(self, count):
        return gray(self.context, count)

    def pool_size(self):
        return len(self.kept)


@pytest.mark.parametrize(("honest", "capacity"), [(True, 5), (True, None), (False, 5)])
def test_a_streams_own_pool_is_in_the_record_and_counts_against_the_capacity(tmp_path, monkeypatch, honest, capacity):
    monkeypatch.setattr(Pooled, "honest", honest)
    workbench = bench(tmp_path, registry_with(synthesizer={"pooled": Pooled}))
    settings = ("schedule.rounds_per_epoch=1", f"schedule.bank_capacity={capacity}")
    (spec,) = specs(workbench, "noise", *settings, swaps={"synthesizer": "pooled"})
    heard = []
    with listening(workbench.registry, heard.append):
        record = run_spec(spec, workbench.results, workbench.store)
    check_data(heard[-1])
    if honest:
        assert record.status == "finished", record.reason
        assert record.bank.in_bank == (capacity or 3 * 8)
    else:
        assert record.status == "failed"
        assert record.reason == (
            "ValueError: the synthesizer 'pooled' keeps 8 images beside the bank's 0, and bank_capacity is 5"
        )
