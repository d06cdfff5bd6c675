"""Seconds and memory of large grids: `python benchmarks/grids.py [--records 20000] [--folder PATH]`.

Plans 5,000 runs in a process of its own, imports and all, with no record there and with half of them; makes the
leaderboard of many records with curves of 200 epochs, in every text form. Prints what was measured; nothing here is
asserted in a test.
The records and their curves take some 30 KB each while it runs, below `--folder`.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from dfkd_bench.datasets.cards import DIGITS
from dfkd_bench.hooks.registry import STAGE_KINDS, default_registry
from dfkd_bench.planning.grid_file import plan_file
from dfkd_bench.results.curves import CURVE_FILE, CurvePoint, curve_text
from dfkd_bench.results.records import Accuracy, BankReport, Environment, Record, TeacherReport
from dfkd_bench.spec import RunSpec, TeacherRef

NETWORKS = ("resnet8", "resnet20", "wrn40_2", "vgg11", "resnet34")
STUDENTS = ("resnet8", "wrn16_1", "wrn40_1", "vgg8")
METHODS = ("deepinversion", "cmi", "fast", "nayer", "csd", "dafl", "zskt", "noise", "one-image", "dda")


def write_grid(path: Path, seeds: int, epochs: Iterable[int] = ()) -> Path:
    """A grid of 10 methods on 20 pairs; for each of `epochs`, every method once more."""
    pairs = ", ".join(f'"{teacher}:{student}"' for teacher in NETWORKS for student in STUDENTS)
    more = [f'[[method]]\nname = "{name}"\nschedule.epochs = {count}\n' for count in epochs for name in METHODS]
    names = "" if more else f"methods = [{', '.join(map(repr, METHODS))}]\n"
    path.write_text(f"{names}pairs = [{pairs}]\nseeds = {seeds}\n{''.join(more)}", encoding="utf-8")
    return path


def specs_of(grid: Path) -> list[RunSpec]:
    recipe = TeacherRef(recipe=DIGITS.teacher_recipe)
    return [run.spec for run in plan_file(grid, default_registry(), lambda name: DIGITS, lambda *asked: recipe)]


def record_of(spec: RunSpec) -> Record:
    curve = tuple(
        CurvePoint(
            epoch=epoch + 1,
            steps=400 * (epoch + 1),
            lr=0.1 * (1 - epoch / 200.3),
            losses={"kd": 1.234567890123 / (epoch + 1), "feature": 0.987654321 / (epoch + 3)},
            accuracy=round(90 - 80 / (epoch + 1), 4),
            accuracy_top5=round(99 - 40 / (epoch + 1), 4),
            agreement=round(91 - 80 / (epoch + 1), 4),
        )
        for epoch in range(200)
    )
    counts = {"images": 80_000, "forward": {"teacher": 1_000_000, "student": 500_000}, "backward": {"teacher": 90_000}}
    phase = {"seconds": 1234.567, **counts, "flops": 123_456_789_012_345, "peak_memory": 2**31}
    return Record(
        run=spec.hash,
        spec=spec,
        status="finished",
        last_good_epoch=200,
        accuracy=Accuracy(last=89.5, last_top5=98.75, oracle_best=89.75, oracle_epoch=190, agreement=90.6),
        priors=dict.fromkeys(STAGE_KINDS, "none"),
        teacher=TeacherReport(model=spec.pair.teacher, sha256="a" * 64, accuracy=95.0, source="trained"),
        student_parameters=1_000_000,
        test_split="b" * 64,
        bank=BankReport(synthesized=80_000, augmented=80_000, kept=60_000, in_bank=140_000, target_agreement=80.0),
        cost=dict.fromkeys(("synthesis", "augmentation", "filtering", "distillation", "evaluation"), phase),
        environment=Environment(
            device="cpu",
            hardware="a processor",
            precision="bf16",
            threads=1,
            platform=platform.platform(),
            versions={"python": "3", "torch": "2"},
            plugins={"dfkd-bench": "0"},
        ),
        started=datetime(2026, 1, 1, tzinfo=UTC),
        finished=datetime(2026, 1, 2, tzinfo=UTC),
    ).with_curve(curve)


def write_records(specs: Iterable[RunSpec], folder: Path) -> float:
    """Records as the program writes them, by exchanging hash and seed in the text; their mean size in bytes."""
    patterns: dict[tuple[str, str, int], tuple[RunSpec, str, str]] = {}
    sizes = []
    for spec in specs:
        key = (spec.method, str(spec.pair), spec.schedule.epochs)
        if key not in patterns:
            record = record_of(spec)
            patterns[key] = (spec, record.model_dump_json(indent=1) + "\n", curve_text(record.curve()))
        first, pattern, curve = patterns[key]
        seeded = pattern.replace(f'\n  "seed": {first.seed},', f'\n  "seed": {spec.seed},', 1)
        text = seeded.replace(first.hash, spec.hash, 1)
        (folder / spec.hash).mkdir(parents=True)
        (folder / spec.hash / "record.json").write_text(text, encoding="utf-8")
        (folder / spec.hash / CURVE_FILE).write_text(curve, encoding="utf-8")
        sizes.append(len(text))
    return statistics.fmean(sizes)


def timed(*command: str | Path) -> tuple[float, float, float]:
    """Seconds of a process by the clock and on the processor, and its peak memory in GiB."""
    start, before = time.perf_counter(), os.times()
    # Not getrusage's: that begins with what this process had before the other took its place.
    code = "import re, sys; from dfkd_bench.cli import main\ntry: main()\nfinally: "
    code += "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1], file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code, *map(str, command)], capture_output=True, text=True, check=False)
    seconds, after = time.perf_counter() - start, os.times()
    busy = after.children_user + after.children_system - before.children_user - before.children_system
    if done.returncode:
        sys.exit(done.stderr)
    return seconds, busy, int(done.stderr.split()[-1]) / 2**20


def row(name: str, measured: list[tuple[float, float, float]]) -> None:
    seconds, busy, memory = zip(*measured, strict=True)
    print(f"{name:48} {statistics.median(seconds):7.2f} {min(seconds):7.2f} {max(seconds):7.2f}", end="")
    print(f" {statistics.median(busy):9.2f} {max(memory):6.2f}   ({len(measured)} times)", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="where the records lie meanwhile")
    asked = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="dfkd-grids-", dir=asked.folder))
    try:
        print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} processors")
        print(f"{'seconds by the clock, and on the processor':48}  median     min     max processor    GiB", flush=True)
        grid = write_grid(folder / "grid.toml", 25)
        plan = ("run", "--grid", grid, "--dry-run", "--device", "cpu", "--results", folder / "plans")
        row("plan 5,000 runs, none done", [timed(*plan) for _ in range(asked.repeats)])
        write_records(specs_of(grid)[::2], folder / "plans")
        row("plan 5,000 runs, 2,500 done, with the estimate", [timed(*plan) for _ in range(asked.repeats)])
        shutil.rmtree(folder / "plans")
        settings = max(asked.records // 25 // 200, 1)
        specs = specs_of(write_grid(folder / "many.toml", 25, range(10, 10 + settings)))[: asked.records]
        size = write_records(specs, folder / "records")
        board = ("leaderboard", "--results", folder / "records")
        row(f"leaderboard of {len(specs):,} records of {size / 1000:.0f} KB", [timed(*board)])
        row("  again", [timed(*board) for _ in range(max(asked.repeats - 1, 1))])
        for form in ("csv", "markdown", "latex", "bibtex"):
            row(f"  as {form}", [timed(*board, "--form", form) for _ in range(max(asked.repeats - 1, 1))])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
