from __future__ import annotations

import csv
import io
import threading
import time

import pytest
from support.e2e_kit import (
    bench,
    listening,
    own_cache,  # noqa: F401
)
from support.engine_kit import begun_below, fault_specs, gpus_seen, plugins_on_path, starts  # noqa: F401

from dfkd_bench import DfkdError
from dfkd_bench.engines import EngineOptions, run_grid
from dfkd_bench.leaderboard.build import build_table
from dfkd_bench.leaderboard.csv_form import csv_text

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install dfkd-bench[ray]")


@pytest.fixture
def cluster(plugins_on_path, monkeypatch):  # noqa: F811
    """A head and a worker node on this machine, of two processors each, that see the stranger's package."""
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    nodes = {"num_cpus": 2, "object_store_memory": 80 * 2**20, "include_dashboard": False}
    made = Cluster(initialize_head=True, head_node_args=nodes)
    # A GPU in name only: Ray gives it out as it would a real one.
    made.add_node(num_cpus=2, num_gpus=1, object_store_memory=80 * 2**20, resources={"second": 1})
    made.wait_for_nodes()
    yield made
    ray.shutdown()
    made.shutdown()


def without_times(table):
    """A leaderboard without clock readings and memory."""
    rows = csv.DictReader(io.StringIO(csv_text(table)))
    return [{name: text for name, text in row.items() if not name.endswith(("_seconds", "_bytes"))} for row in rows]


def on_both_engines(tmp_path, cluster, seeds, seconds=0.2, hear=lambda event: None):
    """The same grid on the cluster and on this machine: each run once, and the same leaderboard."""
    there, here = bench(tmp_path / "there"), bench(tmp_path / "here")
    planned = fault_specs(there, "none", "raises", "exits", seconds=seconds, seeds=seeds)
    ended = []

    def note(event):
        if event.kind in ("finished", "failed"):
            ended.append(event.run)
            hear(len(ended))

    with listening(there.registry, note):
        options = EngineOptions(address=cluster.address)
        grid = run_grid(planned, there, engine="ray", options=options, checkpoint_seconds=0)
    assert grid.problems == []
    assert [record.run for record in grid.records] == [spec.hash for spec in planned]
    assert sorted(ended) == sorted(spec.hash for spec in planned)
    assert {path.parent.name for path in there.results.path.rglob("record.json")} == set(ended)
    run_grid(planned, here, engine="local", options=EngineOptions(jobs=2), checkpoint_seconds=0)
    tables = [without_times(build_table(workbench.results.records())) for workbench in (there, here)]
    assert tables[0] == tables[1]
    assert [r.without_times() for r in there.results.records()] == [r.without_times() for r in here.results.records()]
    return planned


def test_a_small_grid_on_a_cluster_gives_the_local_leaderboard(tmp_path, cluster, plugins_on_path):  # noqa: F811
    on_both_engines(tmp_path, cluster, seeds=(0,))
    done = starts(plugins_on_path)
    assert all(done.count(run) == 2 for run in done)  # once there, once here


@pytest.mark.long
def test_a_grid_outlives_a_node(tmp_path, cluster, plugins_on_path):  # noqa: F811
    second, lost = next(iter(cluster.worker_nodes)), set()
    raylet = second.all_processes["raylet"][0].process.pid

    def kill_as_a_run_begins():
        before = begun_below(raylet, plugins_on_path)
        while not lost:
            time.sleep(0.02)
            lost.update(begun_below(raylet, plugins_on_path) - before)
        cluster.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill_as_a_run_begins)

    def hear(count):
        if count == 5:
            killer.start()

    planned = on_both_engines(tmp_path, cluster, range(8), seconds=1, hear=hear)
    killer.join()
    assert len(planned) == 24
    done = starts(plugins_on_path)
    # What was under way on the lost node (two processors) went on elsewhere; nothing else was begun twice.
    assert {run for run in done if done.count(run) != 2} >= lost
    assert len(set(done)) == 24
    assert 48 < len(done) <= 50


def test_runs_get_the_cluster_s_gpus_unless_they_are_not_wanted(tmp_path, cluster, plugins_on_path):  # noqa: F811
    # The machine that asks has no GPU, so that `auto` must not be settled there.
    for seed, (device, share, seen) in enumerate((("auto", None, "0"), ("auto", 0, "None"), ("cpu", None, "None"))):
        workbench = bench(tmp_path / "results", device=device)
        options = EngineOptions(address=cluster.address, gpus_per_run=share)
        grid = run_grid(fault_specs(workbench, "none", seeds=(seed,)), workbench, engine="ray", options=options)
        assert [record.status for record in grid.records] == ["finished"]
        assert gpus_seen(plugins_on_path)[seed] == seen, (device, share)


def test_no_cluster_at_the_address_is_one_sentence(tmp_path):
    workbench = bench(tmp_path)
    with pytest.raises(DfkdError, match=r"^there is no Ray cluster at 127.0.0.1:1 \(.*\): start one with ray start$"):
        run_grid([], workbench, engine="ray", options=EngineOptions(address="127.0.0.1:1"))


def test_ray_that_is_not_installed_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    started = time.monotonic()
    with pytest.raises(DfkdError, match=r"^the ray engine needs Ray: pip install dfkd-bench\[ray\]$"):
        run_grid([], bench(tmp_path), engine="ray")
    assert time.monotonic() - started < 60
