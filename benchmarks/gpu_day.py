"""What only a GPU can answer, in ten minutes: `python benchmarks/gpu_day.py [--minutes 9] [--out DIR]`.

* twins: each method three rounds in bf16, twice eagerly, and once with each further way to run a step that there is
  (`--variants`; one that this checkout does not have is left out): the losses are the same, to a tolerance or to what
  two eager runs differ by; with each phase's peak memory;
* resume: a run that is killed in its middle and started again ends as one that was not;
* steps: milliseconds of each step, over its floor, the same passes with nothing around them; with the launches that
  torch.profiler counts and the peak memory.

No dataset is needed: teachers have fresh weights, test images are noise, and no accuracy means anything. Each check has
a time of its own, a failure is a row, and what the time is not enough for is named. Prints a table last, and keeps
`gpu-day.json` after each check. `--rehearse` does some of it on the CPU, tiny: that shows that the script works.
"""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from lent import Clock, TimeIsUp, make_registry, out_folder, require, shortened, table, use_checkout, write

if TYPE_CHECKING:
    from dfkd_bench.results.records import Record
    from dfkd_bench.workbench import Workbench

__all__ = ["Day", "Row", "apart", "main"]

#: In order of worth.
METHODS = ("fast", "cmi", "nayer", "deepinversion", "csd", "dfq", "dafl", "zskt", "dfad", "noise")
RESUMED = ("cmi", "fast")
#: Of losses, relative: what another order of additions may make of them in three rounds.
TOLERANCE = 0.02
#: Seconds of a check.
BUDGET = {"twins": 90.0, "resume": 90.0, "steps": 45.0}
_DATASET = "gpu-day"
_SHORT = {"warmup_rounds": 1, "epochs": 3, "rounds_per_epoch": 1}


@dataclass
class Row:
    """What one check found; `numbers` are for the JSON."""

    check: str
    what: str
    verdict: str
    text: str = ""
    seconds: float = 0.0
    numbers: dict[str, Any] = field(default_factory=dict)


def apart(one: Record, other: Record) -> float:
    """The largest relative difference of two runs' losses, over epochs and names; infinite if they are not alike."""
    worst = 0.0
    if len(one.curve()) != len(other.curve()):
        return float("inf")
    for mine, theirs in zip(one.curve(), other.curve(), strict=True):
        if mine.losses.keys() != theirs.losses.keys():
            return float("inf")
        for name, loss in mine.losses.items():
            worst = max(worst, abs(loss - theirs.losses[name]) / max(abs(loss), 1e-12))
    return worst


def _plugin(die_at: int | None) -> object:
    """A dataset of noise with CIFAR-10's card; and, for a run that is to be killed, who kills it."""
    from dfkd_bench.datasets.cards import CIFAR10
    from dfkd_bench.hooks.specs import hookimpl

    class Plugin:
        @hookimpl
        def dfkd_datasets(self, register: Callable[..., None]) -> None:
            register(CIFAR10.model_copy(update={"name": _DATASET}), _noise)

        @hookimpl
        def dfkd_run_event(self, event: Any) -> None:
            if event.kind == "epoch" and event.data["epoch"] == die_at:
                os.kill(os.getpid(), signal.SIGKILL)

    return Plugin()


def _noise(split: str, root: Path | None) -> Any:
    import torch

    from dfkd_bench.datasets.split import Split
    from dfkd_bench.stages.seeds import stream

    images = torch.randint(256, (256, 3, 32, 32), generator=stream(0, f"gpu-day/{split}"), dtype=torch.uint8)
    return Split.of(images, torch.arange(256) % 10)


class Day:
    """The checks, and what they share.

    Args:
        asked: the command line.
        work: a folder for runs, which is thrown away.
    """

    def __init__(self, asked: argparse.Namespace, work: Path) -> None:
        from dfkd_bench.environment import execution

        self.asked, self.work = asked, work
        self.device = execution("cpu" if asked.rehearse else "cuda").device
        self.pair = "resnet8:resnet8" if asked.rehearse else "wrn40_2:wrn16_1"

    # --- runs -------------------------------------------------------------------------------------------------------

    def bench(self, name: str, die_at: int | None = None, **how: Any) -> Workbench:
        """Where a variant's runs are done."""
        from dfkd_bench.hooks.registry import PluginRow
        from dfkd_bench.workbench import Workbench

        registry = make_registry()
        registry.add(_plugin(die_at), PluginRow("gpu-day", "gpu-day", "0"))
        return Workbench.make(
            results=self.work / name,
            teachers=self.work / "teachers",
            device=self.device.type,  # type: ignore[arg-type]
            precision="bf16",
            registry=registry,
            **how,
        )

    def play(self, method: str, bench: Workbench, checkpoint_seconds: float = 1e6) -> Record:
        """Three rounds of a method.

        Raises:
            RuntimeError: the run did not finish.
        """
        from dfkd_bench.planning.requests import Request
        from dfkd_bench.runs.runner import run_spec
        from dfkd_bench.spec import Pair, TeacherRef

        pair = Pair.parse(self.pair)
        ref = TeacherRef(sha256=bench.store.import_file(self._weights(bench), pair.teacher, _DATASET).identity)
        preset = "quick" if self.asked.rehearse or method == "dda" else "paper"
        steps = 2 if self.asked.rehearse else 20
        size = {"batch_size": 8} if self.asked.rehearse else {}
        spec = shortened(
            Request([method], [pair], _DATASET, ref, preset),
            bench.card(_DATASET),
            bench.registry,
            {**_SHORT, "steps_per_epoch": steps, **size},
            {"steps": steps, "warmup_steps": steps, "loops": 1, "warmup_loops": 1, "train_steps": steps, **size},
        )[0]
        record = run_spec(spec, bench.results, bench.store, checkpoint_seconds=checkpoint_seconds)
        if record.status != "finished":
            raise RuntimeError(f"{record.status}: {record.reason}")
        return record

    def _weights(self, bench: Workbench) -> Path:
        import torch
        from safetensors.torch import save_file

        from dfkd_bench.models.build import build_model
        from dfkd_bench.stages.seeds import global_stream

        path = self.work / "weights.safetensors"
        if not path.exists():
            with global_stream(0, torch.device("cpu")):
                body = build_model(self.pair.partition(":")[0], bench.card(_DATASET), bench.registry)
            save_file(body.state_dict(), path)
        return path

    # --- checks -----------------------------------------------------------------------------------------------------

    def checks(self) -> Iterator[tuple[str, str, Callable[[str], Row]]]:
        """All, by worth: kind, subject and work."""
        from serving import NAMES

        methods = self.asked.methods or (("deepinversion",) if self.asked.rehearse else METHODS)
        for method in methods[:4]:
            yield "twins", method, self.twins
        for name in self.asked.steps or (("distillation",) if self.asked.rehearse else NAMES):
            yield "steps", name, self.steps
        for method in [method for method in methods if method in RESUMED] or methods[:1]:
            yield "resume", method, self.resume
        for method in methods[4:]:
            yield "twins", method, self.twins

    def twins(self, method: str) -> Row:
        """Eager twice, and each other way of running there is."""
        from dfkd_bench.workbench import Workbench

        known = inspect.signature(Workbench.make).parameters
        variants = {name: {name: True} for name in self.asked.variants if name != "eager" and name in known}
        eager = self.play(method, self.bench("eager"))
        noise = apart(eager, self.play(method, self.bench("again")))
        # On a CPU all of them are the same; on a GPU two eager runs are not, and others need not be nearer.
        bound = max(TOLERANCE, 3 * noise) if self.device.type == "cuda" else 0.0
        numbers: dict[str, Any] = {"again": noise, "cost": {"eager": eager.cost}}
        notes: list[str] = []
        for name, how in variants.items():
            record = self.play(method, self.bench(name, **how))
            numbers[name] = apart(eager, record)
            numbers["cost"][name] = record.cost
            # Such as that a step could not be captured: then it was as eager as the others.
            notes += record.environment.notes
        differ = {name: numbers[name] for name in ("again", *variants)}
        peak = max(cost["peak_memory"] for cost in eager.cost.values())
        text = ", ".join(f"{name} {value:.1e} apart" for name, value in differ.items())
        good = all(value <= bound for value in differ.values())
        left_out = sorted({*self.asked.variants} - {"eager", *variants})
        text += f", peak {peak / 2**20:.0f} MiB" + (f"; {', '.join(left_out)} is not there" if left_out else "")
        text += "".join(f"; {note}" for note in dict.fromkeys(notes))
        return Row("twins", method, "ok" if good else "FAIL", text, numbers=numbers)

    def resume(self, method: str) -> Row:
        """Killed by SIGKILL after its second epoch, and started again."""
        whole = self.play(method, self.bench("whole", deterministic=True), checkpoint_seconds=0)
        killed = self._child(method, die_at=2)
        if killed.returncode != -signal.SIGKILL:
            return Row("resume", method, "FAIL", f"it was to be killed and ended: {killed.stderr.strip()[-300:]}")
        ended = self._child(method, die_at=0)
        if ended.returncode:
            return Row("resume", method, "FAIL", ended.stderr.strip()[-300:])
        record = self.play(method, self.bench("killed", deterministic=True), checkpoint_seconds=0)
        differ = apart(whole, record)
        bound = TOLERANCE if self.device.type == "cuda" else 0.0
        return Row(
            "resume", method, "ok" if differ <= bound else "FAIL", f"{differ:.1e} apart", numbers={"apart": differ}
        )

    def _child(self, method: str, die_at: int) -> subprocess.CompletedProcess[str]:
        more = ["--rehearse"] if self.asked.rehearse else []
        command = [sys.executable, __file__, "--child", method, "--die-at", str(die_at), "--out", str(self.work), *more]
        return subprocess.run(command, check=False, capture_output=True, text=True)

    def steps(self, name: str) -> Row:
        """A step over its floor, in turn; launches of both in a round; memory."""
        import torch
        from steps import Steps

        rehearse = self.asked.rehearse
        setting = SimpleNamespace(batch=8 if rehearse else 128, precision="bf16", steps=1 if rehearse else 10)
        made = Steps(setting, self.device)  # type: ignore[arg-type]
        names = {"step": name, "floor": f"{name} floor"}
        times: dict[str, list[float]] = {key: [] for key in names}
        for _ in range(2 if rehearse else 7):
            for key, which in names.items():
                times[key].append(1e3 * made.seconds(which))
        numbers: dict[str, Any] = {"milliseconds": times}
        for key, which in names.items():
            numbers[f"{key} launches"] = self._launches(made.work(which)) / setting.steps
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            made.seconds(name)
            numbers["peak_memory"] = torch.cuda.max_memory_allocated()
        median = {key: sorted(values)[len(values) // 2] for key, values in times.items()}
        text = f"{median['step']:.2f} ms, {median['step'] / median['floor']:.2f} of its floor, "
        text += f"{numbers['step launches']:.0f} launches a step, the floor {numbers['floor launches']:.0f}"
        return Row("steps", name, "measured", text, numbers=numbers)

    def _launches(self, work: Callable[[], object]) -> int:
        """Kernels that ran on the GPU; on a CPU, operations in their place."""
        import torch
        from torch.profiler import ProfilerActivity, profile

        cuda = self.device.type == "cuda"
        with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]) as seen:
            work()
            if cuda:
                torch.cuda.synchronize()
        kind = torch.autograd.DeviceType.CUDA
        if cuda:
            return sum(each.device_type == kind and not each.name.startswith("Mem") for each in seen.events())
        return sum(each.name.startswith("aten::") for each in seen.events())


def perform(day: Day, clock: Clock, tell: Callable[[list[Row]], None]) -> list[Row]:
    """Every check in its time; `tell` is given the rows after each."""
    rows: list[Row] = []
    for kind, what, work in day.checks():
        start = time.monotonic()
        try:
            # A rehearsal is of the work, on whatever machine; its times mean nothing.
            with clock.stops(None if day.asked.rehearse else BUDGET[kind]):
                row = work(what)
        except TimeIsUp:
            why = "the time was up" if clock.left <= 0 else f"not done in its {BUDGET[kind]:.0f} s"
            row = Row(kind, what, "not run", why)
        except Exception as error:
            row = Row(kind, what, "FAIL", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
            row.numbers["traceback"] = traceback.format_exc()
        row.seconds = round(time.monotonic() - start, 1)
        rows.append(row)
        print(f"{kind} {what}: {row.verdict} {row.text}", flush=True)
        tell(rows)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 1 if a check failed."""
    asked = _parse(arguments)
    use_checkout()
    require()
    from dfkd_bench.errors import DfkdError

    clock, out = Clock(asked.minutes), out_folder(asked.out, "gpu-day")
    try:
        if asked.child:
            day = Day(asked, out)
            day.play(asked.child, day.bench("killed", asked.die_at, deterministic=True), checkpoint_seconds=0)
            return 0
        with tempfile.TemporaryDirectory(prefix="gpu-day-") as work:
            day = Day(asked, Path(work))
            about = day.bench("about")
            hardware = _hardware(about)

            def tell(rows: list[Row]) -> None:
                write(out / "gpu-day.json", {**hardware, "rows": [asdict(row) for row in rows]})

            rows = perform(day, clock, tell)
    except DfkdError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{hardware['hardware']}, {hardware['precision']}, torch {hardware['versions']['torch']}")
    cells = [(row.check, row.what, row.verdict, f"{row.seconds:.0f}", row.text) for row in rows]
    print(table(("check", "of", "verdict", "s", "found"), cells))
    return int(any(row.verdict == "FAIL" for row in rows))


def _hardware(bench: Workbench) -> dict[str, Any]:
    from dfkd_bench.environment import describe

    found: dict[str, Any] = describe(bench.execution, bench.registry).model_dump(mode="json")
    return found


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="where gpu-day.json is kept; default: $OUT, else ./gpu-day")
    parser.add_argument("--minutes", type=float, default=9.0, help="all together")
    parser.add_argument("--methods", nargs="+", help="in this order; default: by worth")
    parser.add_argument("--steps", nargs="+", help="steps to time; default: all")
    parser.add_argument(
        "--variants", nargs="+", default=["eager", "graphs"], help="ways to run a step, as `run` has them"
    )
    parser.add_argument("--rehearse", action="store_true", help="tiny, on the CPU")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--die-at", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
