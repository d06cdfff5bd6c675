"""Eager against compiled, in turn: `python benchmarks/compiled.py [--step distillation] [--repeats 10]`.

A step of a method with the networks as they are, and with those of `dfkd-bench run --compile`. Prints what the start of
each took, then the least, the median and the most of a step, and the ratio of the two pair by pair: once by the clock,
and once in seconds of the processor, which other processes on the machine change less.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from serving import NAMES, Setting, summary
from steps import Steps


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10, help="measurements of each, in turn")
    parser.add_argument("--step", choices=NAMES, default="distillation")
    Setting.add_to(parser)
    asked = parser.parse_args(namespace=Setting())
    sides = {"eager": Steps(asked), "compiled": Steps(asked, compiled=True)}
    print(
        f"{asked.step}, {torch.get_num_threads()} threads, torch {torch.__version__}, {asked.precision}, "
        f"{asked.batch} images, n = {asked.repeats} of {asked.steps} steps each"
    )
    for name, steps in sides.items():
        clock, processor = time.perf_counter(), time.process_time()
        steps.seconds(asked.step)
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        print(f"{name:9} start {clock:7.1f} s by the clock, {processor:7.1f} s of the processor", flush=True)
    measured: dict[str, dict[str, list[float]]] = {
        what: {name: [] for name in sides} for what in ("clock", "processor")
    }
    for _ in range(asked.repeats):
        for name, steps in sides.items():
            start = time.process_time()
            measured["clock"][name].append(1e3 * steps.seconds(asked.step))
            measured["processor"][name].append(1e3 * (time.process_time() - start) / asked.steps)
    for what, found in measured.items():
        print(f"\nms a step, by the {what}:\n{'':9} {'least':>7} {'median':>7} {'most':>7}")
        for name, times in found.items():
            print(f"{name:9} {min(times):7.0f} {statistics.median(times):7.0f} {max(times):7.0f}")
        print(f"eager / compiled: {summary(found['eager'], found['compiled'])}")
        print(f"least of eager / least of compiled: {min(found['eager']) / min(found['compiled']):.2f}")


if __name__ == "__main__":
    main()
