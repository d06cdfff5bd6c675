"""What it costs that the test split is in memory for an evaluation only: the start of a run, and one opening.

    python benchmarks/evaluator.py --data-root DIR [--dataset cifar10] [--times 5]

`before` is the start as it was: the parquet library is imported, its files counted, and the split held in memory.
`now` is the start with the split kept on the disk. Each start is a process of its own, the two in turn; the cache is
filled before. Seconds from the open dataset to the evaluator, without the imports of torch and the registry.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path


def start(how: str, dataset: str, data_root: Path | None) -> dict[str, float]:
    """One start in this process."""
    import torch

    from dfkd_bench.datasets.access import open_dataset
    from dfkd_bench.evaluation import Evaluator
    from dfkd_bench.hooks.registry import default_registry

    data = open_dataset(dataset, default_registry(), data_root)
    begin = time.perf_counter()
    if how == "before":
        from dfkd_bench.datasets.parquet import open_parquet

        for file in sorted((data_root or Path()).glob(f"{dataset}/**/*.parquet")):
            open_parquet(file)
        split = data.load("test")
        took = time.perf_counter() - begin
        return {"start": took, "opening": 0.0, "held_mib": split.images.numel() / 2**20}
    evaluator = Evaluator(data.load("test"), torch.device("cpu"))
    took, begin = time.perf_counter() - begin, time.perf_counter()
    with evaluator._stored.opened() as (images, _):
        first = int(images[0, 0, 0, 0])
    return {"start": took, "opening": time.perf_counter() - begin, "held_mib": 0.0 * first}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--data-root", type=Path)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--one", choices=("before", "now"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(start(asked.one, asked.dataset, asked.data_root)))
        return
    found: dict[str, list[dict[str, float]]] = {"before": [], "now": []}
    command = [sys.executable, __file__, *sys.argv[1:], "--one"]
    for turn in range(asked.times + 1):
        for how, results in found.items():
            done = subprocess.run([*command, how], capture_output=True, text=True, check=True, env=os.environ)
            if turn:  # the first fills the caches
                results.append(json.loads(done.stdout))
    print(f"{'':8}{'start s':>10}{'spread':>16}{'opening ms':>12}{'held MiB':>10}   n = {asked.times}")
    for how, results in found.items():
        starts = [one["start"] for one in results]
        opening, held = (statistics.median(one[name] for one in results) for name in ("opening", "held_mib"))
        spread = f"{min(starts):.2f} to {max(starts):.2f}"
        print(f"{how:8}{statistics.median(starts):10.2f}{spread:>16}{1000 * opening:12.2f}{held:10.1f}")


if __name__ == "__main__":
    main()
