"""What the tests of engines share: a stranger's package whose plugins do all that plugins should not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfkd_bench.hooks.registry import Registry, default_registry
from dfkd_bench.spec import RunSpec
from dfkd_bench.workbench import Workbench
from support.e2e_kit import PAIR, specs, tiny, write_distribution

__all__ = ["FAULTS", "begun_below", "fault_specs", "gpus_seen", "plugins_on_path", "start", "starts"]

_PLUGIN = """
import os, time
from dfkd_bench import hookimpl

@hookimpl
def dfkd_synthesizers(register):
    register("strange", "strange_stage:Strange")

@hookimpl
def dfkd_run_event(event):
    if event.kind == "started" and "STRANGE_LOG" in os.environ:
        with open(os.environ["STRANGE_LOG"], "a") as log:
            log.write(f"{event.run} {os.getpid()} {os.environ.get('CUDA_VISIBLE_DEVICES')}\\n")
"""
_STAGE = """
import os, resource, time
import torch
from pydantic import Field
from dfkd_bench import StageOptions, Synthesizer, SyntheticBatch

class Options(StageOptions):
    fault: str = Field("none", description="what goes wrong in the second round")
    seconds: float = Field(0, description="how long a round takes")

class Strange(Synthesizer[Options]):
    Options = Options

    def synthesize(self, round):
        context, fault = self.context, self.options.fault
        time.sleep(self.options.seconds)
        images = torch.rand((8, *context.card.image_shape), generator=context.generator)
        if round.index == 2:
            if fault == "raises":
                raise RuntimeError("on purpose")
            if fault == "nan":
                images[0] = torch.nan
            if fault == "exits":
                os._exit(3)
            if fault == "killed":
                os.kill(os.getpid(), 9)
            if fault == "full":
                resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))  # as good as a full disk
            if fault == "allocates":
                used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
                resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
                self.hoard = []
                while True:
                    self.hoard.append(torch.zeros(2**24))
        return SyntheticBatch(images, torch.arange(8) % context.card.num_classes)
"""
#: What goes wrong, and the row that it leaves.
FAULTS = {
    "raises": ("failed", "RuntimeError: on purpose"),
    "nan": ("diverged", "images are not finite"),
    "exits": ("killed", "the process ended with exit status 3 and left no record"),
    "killed": ("killed", "the process was killed by SIGKILL, perhaps for memory"),
    "allocates": ("out-of-memory", "RuntimeError: "),
}


@pytest.fixture
def plugins_on_path(tmp_path, monkeypatch) -> Iterator[Path]:
    """The stranger's package, for this process and those that it starts; the log of run starts."""
    site = tmp_path / "site"
    modules = {"strange_plugin": _PLUGIN, "strange_stage": _STAGE}
    write_distribution(site, "strange", "1.0", modules, {"strange": "strange_plugin"})
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")]))
    log = tmp_path / "starts"
    log.touch()
    monkeypatch.setenv("STRANGE_LOG", str(log))
    default_registry.cache_clear()  # it was perhaps made before the package was there
    yield log
    default_registry.cache_clear()


def starts(log: Path) -> list[str]:
    """The runs that were started, in order, as often as they were."""
    return [line.split()[0] for line in log.read_text(encoding="utf-8").splitlines()]


def gpus_seen(log: Path) -> list[str]:
    """What the runs saw in CUDA_VISIBLE_DEVICES, in the order of their starts."""
    return [line.split()[2] for line in log.read_text(encoding="utf-8").splitlines()]


def begun_below(ancestor: int, log: Path) -> set[str]:
    """The runs whose processes are alive and descend from a process."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return {run for run, pid, _ in map(str.split, lines) if ancestor in _ancestors(int(pid))}


def _ancestors(pid: int) -> Iterator[int]:
    while pid > 1:
        try:
            status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        except FileNotFoundError:
            return
        pid = int(status.rpartition(")")[2].split()[1])
        yield pid


def fault_specs(workbench: Workbench, *faults: str, seconds: float = 0, seeds: tuple[int, ...] = (0,)) -> list[RunSpec]:
    """Tiny specs whose synthesizer goes wrong in the second epoch, after one that went well."""
    found = []
    for fault in faults:
        options = (f"synthesizer.fault={fault}", f"synthesizer.seconds={seconds}")
        found += specs(workbench, "noise", *options, swaps={"synthesizer": "strange"}, seeds=seeds)
    return found


def grid_command(results: Path, teachers: Path, *more: str | Path, seeds: int = 1) -> list[str]:
    """The command line of a tiny grid of noise runs by the stranger's synthesizer."""
    overrides = tiny("noise", Registry(), {"synthesizer": "strange"})
    command = [sys.executable, "-c", "from dfkd_bench.cli import main; main()", "run", "--method", "noise"]
    command += ["--pair", PAIR, "--synthesizer", "strange", "--device", "cpu", "--precision", "fp32"]
    command += [part for text in overrides for part in ("--set", text)]
    command += [part for seed in range(seeds) for part in ("--seed", str(seed))]
    return [*command, "--results", str(results), "--teachers", str(teachers), *map(str, more)]


def start(*command: str, **variables: str) -> subprocess.Popen[str]:
    """A process, its two outputs as one."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "NO_COLOR": "1", **variables},
        # A shell starts what goes on in the background deaf to Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509
    )
