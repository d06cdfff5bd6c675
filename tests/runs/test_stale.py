"""A record knows the code of the plugins that made it; when that has changed, everybody is told."""

from __future__ import annotations

import json
import sys

import pytest
from support.e2e_kit import PAIR, bench, cli, listening, own_cache, registry_with, specs, teacher_file, teachers_folder  # noqa: F401

from dfkd_bench.results import code
from dfkd_bench.results.records import Record
from dfkd_bench.results.status import run_states
from dfkd_bench.runs.runner import run_spec

SOURCE = """
import torch
from dfkd_bench import Synthesizer, SyntheticBatch

class Mine(Synthesizer):
    def synthesize(self, round):
        images = torch.rand((8, *self.context.card.image_shape), generator=self.context.generator) * BRIGHT
        return SyntheticBatch(images, torch.arange(8) % self.context.card.num_classes)
"""


class Plugin:
    """A package with one synthesizer, which can be edited."""

    def __init__(self, folder):
        self.file = folder / "edited_plugin.py"
        self.write(1.0)

    def write(self, bright: float) -> None:
        self.file.write_text(SOURCE.replace("BRIGHT", str(bright)), encoding="utf-8")
        sys.modules.pop("edited_plugin", None)
        code.package_hash.cache_clear()  # as in the next process


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path / "plugin"))
    (tmp_path / "plugin").mkdir()
    yield Plugin(tmp_path / "plugin")
    sys.modules.pop("edited_plugin", None)
    code.package_hash.cache_clear()


@pytest.fixture
def made(tmp_path, plugin, monkeypatch):
    """A workbench and the spec of a run that the plugin made; the command line knows the plugin too."""
    registry = registry_with(synthesizer={"mine": "edited_plugin:Mine"})
    monkeypatch.setattr("dfkd_bench.workbench.default_registry", lambda: registry)
    workbench = bench(tmp_path / "results", registry)
    (spec,) = specs(workbench, "noise", swaps={"synthesizer": "mine"})
    run_spec(spec, workbench.results, workbench.store)
    return workbench, spec


def test_a_record_knows_the_code_that_made_it(made):
    workbench, spec = made
    record = workbench.results.read(spec.hash)
    assert set(record.environment.code) == {"dfkd_bench", "edited_plugin"}
    assert record.environment.code["edited_plugin"] == code.package_hash("edited_plugin")
    assert code.changed(record.environment.code) == ()


def test_a_record_without_its_code_can_be_read_and_is_not_stale(made):
    workbench, spec = made
    path = workbench.results.folder(spec.hash) / "record.json"
    plain = json.loads(path.read_text(encoding="utf-8"))
    del plain["environment"]["code"]
    assert Record.model_validate(plain).environment.code is None
    assert code.changed(None) == ()


def test_of_code_that_is_gone_nothing_is_known_unless_it_is_needed():
    gone = {"dfkd_bench": "0" * 16, "a_package_that_was": "1" * 16}
    assert code.changed(gone) == ()
    assert code.changed(gone, needed=True) == ("a_package_that_was",)


def test_an_edited_plugin_makes_its_runs_stale_and_rerun_stale_does_them_again(made, plugin, tmp_path):
    workbench, spec = made
    first = workbench.results.read(spec.hash)
    assert run_states(workbench.results)[0].changed == ()
    plugin.write(0.25)
    assert run_spec(spec, workbench.results, workbench.store, retry=True) == first  # nothing is done unasked
    (state,) = run_states(workbench.results)
    assert (state.state, state.changed) == ("done", ("edited_plugin",))
    again = run_spec(spec, workbench.results, workbench.store, rerun_stale=True)
    assert again.accuracy != first.accuracy
    assert again.environment.code["edited_plugin"] != first.environment.code["edited_plugin"]
    assert run_states(workbench.results)[0].changed == ()
    assert run_spec(spec, workbench.results, workbench.store, rerun_stale=True) == again  # once
    (kept,) = (workbench.results.folder(spec.hash) / "replaced").iterdir()
    assert {path.name for path in kept.iterdir()} == {"record.json", "curve.csv", "images.png"}
    assert Record.model_validate_json((kept / "record.json").read_bytes()) == first
    assert [record.run for record in workbench.results.records()] == [spec.hash]


def test_a_checkpoint_of_other_code_is_dropped_when_stale_runs_are_done_again(made, plugin):
    workbench, spec = made
    plugin.write(0.25)

    def stop(event):
        if event.kind == "epoch":
            raise KeyboardInterrupt

    def broken_off():
        with pytest.raises(KeyboardInterrupt), listening(workbench.registry, stop):
            run_spec(spec, workbench.results, workbench.store, checkpoint_seconds=0, rerun_stale=True)

    broken_off()
    plugin.write(0.5)
    broken_off()
    expected = run_spec(spec, workbench.results, workbench.store, rerun_stale=True)
    workbench.results.folder(spec.hash).joinpath("record.json").unlink()
    assert run_spec(spec, workbench.results, workbench.store).without_times() == expected.without_times()


def test_the_commands_say_what_is_stale(made, plugin, tmp_path):
    workbench, spec = made
    places = ("--results", workbench.results.path, "--teachers", tmp_path / "teachers", "--device", "cpu")
    plugin.write(0.25)
    shown = cli("status", "--results", workbench.results.path).out
    assert f"stale        {spec.hash}  {spec.title}: the code of edited_plugin has changed since" in shown
    assert "1 of the runs with a record are stale: add --rerun stale to run them again." in shown
    grid = tmp_path / "grid.toml"
    options = "\n".join(f"{name} = {json.dumps(value)}" for name, value in spec.distiller.options.items())
    schedule = "\n".join(
        f"{name} = {json.dumps(value)}" for name, value in spec.schedule.model_dump().items() if value is not None
    )
    grid.write_text(
        f'methods = ["noise"]\npairs = ["{PAIR}"]\n[schedule]\n{schedule}\n[[method]]\nname = "noise"\n'
        f'synthesizer = "mine"\n[method.distiller]\n{options}\n'.replace('methods = ["noise"]\n', ""),
        encoding="utf-8",
    )
    teacher = teacher_file()
    with grid.open("a", encoding="utf-8") as file:
        file.write(f'[teachers.digits]\nresnet8 = "{teacher}"\n')
    assert cli("run", "--grid", grid, *places).code == 0
    plugin.write(0.5)
    found = cli("run", "--grid", grid, *places)
    assert "1 run found is stale: it was made by other code of edited_plugin than is installed now" in found.out
    assert "1 found (1 of them stale), 0 run" in found.out
    assert "Stale: 1 row was measured with other code of edited_plugin than is installed here" in found.out
    again = cli("run", "--grid", grid, *places, "--rerun", "stale")
    assert "0 found, 1 run" in again.out
    assert "stale" not in again.out.lower()
