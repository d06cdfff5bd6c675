"""A run that is killed with SIGKILL at random moments ends in the same record as one that is left alone."""

from __future__ import annotations

import json
import signal

import pytest
import torch
from support.e2e_kit import (
    bench,
    own_cache,  # noqa: F401
    program,
    specs,
    teachers_folder,
)

from dfkd_bench.results.records import Record

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system cannot kill")

# It imports torch once and forks for each try: a process start for each of twenty kills would take minutes.
KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import torch
from dfkd_bench import RunSpec, hookimpl
from dfkd_bench.workbench import Workbench
from dfkd_bench.runs.runner import run_spec

_, results, teachers, text, threads, kills, seed = sys.argv
torch.set_num_threads(int(threads))
spec, rng = RunSpec.model_validate_json(text), random.Random(seed)


def die():
    os.kill(os.getpid(), signal.SIGKILL)


class AtEvent:
    def __init__(self, left):
        self.left = left

    @hookimpl
    def dfkd_run_event(self, event):
        self.left -= 1
        if self.left < 0:
            die()


class Counting:
    @hookimpl
    def dfkd_run_event(self, event):
        with open(results + "/events", "a") as file:
            file.write(".")


def in_a_checkpoint(left):
    write = Path.write_bytes

    def half(self, data):
        nonlocal left
        left -= 1
        if left < 0:
            write(self, bytes(data)[: len(data) // 2])
            die()
        return write(self, data)

    Path.write_bytes = half


def attempt(how, folder):
    child = os.fork()
    if child:
        if how == "outside":
            time.sleep(rng.uniform(0.05, 1.0))
            os.kill(child, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        bench = Workbench.make(results=folder, teachers=teachers, device="cpu", precision="fp32")
        if how is None:
            bench.registry.listen(Counting())
        if how == "event":
            # So far each time that a third of the run is behind them all: few kills are not all in the first epoch.
            events = Path(results, "events").stat().st_size
            bench.registry.listen(AtEvent(rng.randint(events // int(kills) // 2, events // int(kills))))
        if how == "checkpoint":
            in_a_checkpoint(rng.randint(1, 2))  # one is there, so that the next try is a resumption
        run_spec(spec, bench.results, bench.store, checkpoint_seconds=0)
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


assert attempt(None, results + "/whole") == 0
done, resumed = 0, 0
for how in [("checkpoint", "event", "outside")[number % 3] for number in range(int(kills))]:
    rng.random()  # a fork has the same numbers before it
    resumed += Path(results, "pieces", spec.hash, "checkpoint.pt").exists()
    code = attempt(how, results + "/pieces")
    assert code == -signal.SIGKILL, (how, code, done)
    done += 1
assert attempt(None, results + "/pieces") == 0
print(done, resumed)
"""

KINDS = {
    "bank": ("cmi", ("schedule.rounds_per_epoch=1",), {}),
    "stream": ("dfq", (), {}),
    "meta-learned generator": ("fast", (), {}),
    "language": ("nayer", (), {}),
    "augmentation head": ("csd", (), {}),
    "rotation head": ("dda", ("schedule.rounds_per_epoch=1", "distiller.self_loss=rotation"), {}),
    "diffusion": ("dda", ("schedule.warmup_rounds=3",), {"augmenter": "self-diffusion"}),
}


def killed_and_left_alone(tmp_path, kind: str, kills: int, epochs: int) -> None:
    method, overrides, swaps = KINDS[kind]
    workbench = bench(tmp_path / "whole")
    (spec,) = specs(workbench, method, *overrides, f"schedule.epochs={epochs}", swaps=swaps)
    arguments = (tmp_path, teachers_folder(), spec.model_dump_json(), str(torch.get_num_threads()), str(kills), kind)
    done = program(*arguments, code=KILLER, timeout=900)
    assert done.code == 0, done
    died, resumed = map(int, done.out.split())
    assert died == kills
    assert resumed >= kills - 1
    folders = [tmp_path / where / spec.hash for where in ("whole", "pieces")]
    whole, pieces = (Record.model_validate(json.loads((folder / "record.json").read_bytes())) for folder in folders)
    assert whole.status == "finished", whole.reason
    assert pieces.without_times() == whole.without_times()
    assert (folders[0] / "images.png").read_bytes() == (folders[1] / "images.png").read_bytes()
    assert {path.name for path in folders[1].iterdir()} == {"record.json", "curve.csv", "images.png"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_kills_change_nothing(tmp_path, kind):
    killed_and_left_alone(tmp_path, kind, kills=3, epochs=8)


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_twenty_kills_change_nothing(tmp_path, kind):
    killed_and_left_alone(tmp_path, kind, kills=20, epochs=60)
