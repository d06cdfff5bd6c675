"""A run with `compile`: what its record says, and checkpoints from which eager and compiled runs resume alike."""

from __future__ import annotations

import pytest
from support.e2e_kit import Interrupts, cli, listening, own_cache, specs, teacher_file, teachers_folder  # noqa: F401

from dfkd_bench import DfkdError, Network, environment
from dfkd_bench.engines.settings import WorkerSettings
from dfkd_bench.results.again import Again
from dfkd_bench.runs.runner import run_spec
from dfkd_bench.workbench import Workbench


@pytest.fixture
def networks(monkeypatch):
    """The networks that were compiled, by a backend that needs no compiler and rounds as eager code does."""
    made, real = [], Network.compile_passes

    def compile_passes(network):
        made.append(network)
        real(network, "eager")

    monkeypatch.setattr(Network, "compile_passes", compile_passes)
    monkeypatch.setattr(environment, "compiler_missing", lambda device: None)
    monkeypatch.setattr("dfkd_bench.resume.checkpoint._SHARE", 0)
    return made


def workbench(results, *, compiled):
    places = {"results": results, "teachers": teachers_folder()}
    return Workbench.make(**places, device="cpu", precision="fp32", compile=compiled)


def test_eager_and_compiled_runs_resume_from_each_others_checkpoints(tmp_path, networks):
    whole = workbench(tmp_path / "whole", compiled=False)
    (spec,) = specs(whole, "noise")
    expected = run_spec(spec, whole.results, whole.store)
    assert (expected.status, expected.environment.compiled, networks) == ("finished", False, [])
    wanted = expected.without_times()
    for name, (before, after) in {"on": (False, True), "off": (True, False)}.items():
        first, second = (workbench(tmp_path / name, compiled=each) for each in (before, after))
        with pytest.raises(KeyboardInterrupt), listening(first.registry, Interrupts(3)):
            run_spec(spec, first.results, first.store, checkpoint_seconds=0)
        found = run_spec(spec, second.results, second.store).without_times()
        assert found["environment"].pop("compiled") is True
        assert found["environment"].pop("notes") == ["some of it was compiled, some was not"]
        assert found == {**wanted, "environment": found["environment"]}
    # Teacher and student, and not the copy that is evaluated.
    assert len(networks) == 2 * 2


def test_the_setting_reaches_a_runs_own_process_and_no_teachers_card(tmp_path, networks):
    bench = workbench(tmp_path, compiled=True)
    settings = WorkerSettings.of(bench, checkpoint_seconds=1, again=Again())
    assert WorkerSettings.model_validate_json(settings.model_dump_json()).compile
    assert environment.describe(bench.execution, bench.registry).compiled
    store = Workbench.make(teachers=tmp_path / "teachers", device="cpu", precision="fp32", compile=True).store
    file = teacher_file()
    assert not store.import_file(file, "resnet8", "digits").card.environment.compiled
    assert networks == []


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_without_a_compiler_it_is_refused_before_anything_runs(dry, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "compiler_missing", lambda device: f"a compiler for {device}")
    places = ("--results", tmp_path / "results", "--teachers", tmp_path / "teachers")
    asked = ("run", "--method", "noise", "--pair", "resnet8:resnet8", "--device", "cpu", *places, *dry)
    sentence = cli(*asked, "--compile").sentence()
    assert sentence == "--compile needs a compiler for cpu, and there is none here: install it, or leave --compile out"
    assert list(tmp_path.iterdir()) == []
    # Runs on other machines find that out there.
    assert environment.execution("cpu", compile=True, here=False).compile


def test_together_with_graphs_it_is_refused(monkeypatch):
    monkeypatch.setattr(environment, "compiler_missing", lambda device: None)
    with pytest.raises(DfkdError, match="--compile and --graphs together are untried"):
        environment.execution("cpu", compile=True, graphs=True)
