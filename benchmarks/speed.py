"""Ratios of speed, measured in turn: `python benchmarks/speed.py [--repeats 5] [--against PATH] [--peer PATH]`.

First the steps of the methods over their floor, the same passes of the same networks with nothing around them; beside
them, if asked for, those of another checkout of this repository and of a checkout of zju-vipa/CMI. Then pairs of ways
to do one thing. Prints medians with the least and the most, never a verdict; nothing here is asserted in a test.
"""

from __future__ import annotations

import argparse
import io
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from PIL import Image
from serving import NAMES, Other, Setting, summary
from steps import Steps
from torch.nn import functional as F

from dfkd_bench.bank import ImageBank, SyntheticBatch
from dfkd_bench.blocks.batchnorm import bn_loss
from dfkd_bench.blocks.views import crop_and_flip
from dfkd_bench.datasets.cards import CIFAR10
from dfkd_bench.models.wrn import wrn40_2
from dfkd_bench.network import Network

Work = Callable[[], object]
PEER_NAMES = ("deepinversion", "cmi", "dfq", "distillation")


def ratios(first: Work, second: Work, repeats: int) -> list[float]:
    """Seconds of `first` over seconds of `second`, pair by pair, after a warm-up of both."""
    first(), second()
    found = []
    for _ in range(repeats):
        times = []
        for work in (first, second):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        found.append(times[0] / times[1])
    return found


def training_step(precision: torch.dtype, layout: torch.memory_format) -> Work:
    """One training step of a WRN-40-2 on 64 images of 32 x 32."""
    network = Network(wrn40_2(10), CIFAR10, precision).to(memory_format=layout)
    images, labels = torch.rand(64, 3, 32, 32), torch.randint(10, (64,))

    def work() -> None:
        network.zero_grad(set_to_none=True)
        F.cross_entropy(network(images), labels).backward()

    return work


def inversion_step(*, frozen: bool) -> Work:
    """Gradient to 64 images through a WRN-40-2 whose weights want one too, or not."""
    network = Network(wrn40_2(10), CIFAR10, torch.bfloat16).eval().requires_grad_(not frozen)
    images = torch.rand(64, 3, 32, 32, requires_grad=True)

    def work() -> None:
        bn_loss(network.observe(images, batchnorm=True).batchnorm).backward()

    return work


def bn_by_var_mean() -> Work:
    """The BatchNorm statistics' distance by torch.var_mean over N, H and W."""
    layer, inputs = torch.nn.BatchNorm2d(32).eval(), _maps()

    def work() -> None:
        variance, mean = torch.var_mean(inputs.float(), dim=(0, 2, 3), unbiased=False)
        ((layer.running_var - variance).norm() + (layer.running_mean - mean).norm()).backward()

    return work


def bn_of_ours() -> Work:
    """The same distance as the package computes it."""
    layer, inputs = torch.nn.BatchNorm2d(32).eval(), _maps()
    return lambda: bn_loss([(layer, inputs)]).backward()


def _maps() -> torch.Tensor:
    maps = torch.randn(128, 32, 16, 16, dtype=torch.bfloat16).contiguous(memory_format=torch.channels_last)
    return maps.requires_grad_()


def batch_from_bank() -> Work:
    """A batch of 128 from a bank of 2,048, cropped and flipped on the device."""
    generator = torch.Generator().manual_seed(0)
    bank = ImageBank((3, 32, 32), torch.device("cpu"), generator)
    bank.add(SyntheticBatch(torch.rand(2048, 3, 32, 32), torch.zeros(2048, dtype=torch.int64)))

    def work() -> None:
        images, _ = bank.draw(128)
        crop_and_flip(images, CIFAR10.transform, generator).float().div_(255)

    return work


def batch_from_png() -> Work:
    """The same number of images decoded from PNG, as released pools do, without crop, flip and disk."""
    files = []
    for _ in range(128):
        buffer = io.BytesIO()
        pixels = torch.randint(256, (32, 32, 3), dtype=torch.uint8).numpy()
        Image.fromarray(pixels).save(buffer, format="PNG")
        files.append(buffer.getvalue())
    return lambda: [Image.open(io.BytesIO(file)).convert("RGB").tobytes() for file in files]


def step_table(setting: Setting, names: Sequence[str], repeats: int, others: dict[str, Other]) -> None:
    """Milliseconds of a step and of its floor, and their ratio; then what the other processes say."""
    ours = Steps(setting)
    heads = "".join(f" {name + ' ms':>11} {name + ' / ours':24}" for name in others)
    print(f"{'step':14} {'ours ms':>8} {'floor ms':>8} {'ours / floor':24}{heads}")
    for name in names:
        asked = {key: other for key, other in others.items() if key != "peer" or name in PEER_NAMES}
        sources = {"ours": ours, "floor": ours, **asked}
        found: dict[str, list[float]] = {key: [] for key in sources}
        for _ in range(repeats):
            for key, source in sources.items():
                found[key].append(source.seconds(f"{name} floor" if key == "floor" else name))
        milliseconds = {key: 1e3 * statistics.median(times) for key, times in found.items()}
        line = f"{name:14} {milliseconds['ours']:8.0f} {milliseconds['floor']:8.0f}"
        line += f" {summary(found['ours'], found['floor']):24}"
        for key in asked:
            line += f" {milliseconds[key]:11.0f} {summary(found[key], found['ours']):24}"
        print(line, flush=True)


def pair_table(repeats: int) -> None:
    """Ways to do one thing, two by two."""
    plain, channels = torch.contiguous_format, torch.channels_last
    pairs = {
        "training step, float32 contiguous / bf16 channels-last": (
            training_step(torch.float32, plain),
            training_step(torch.bfloat16, channels),
        ),
        "inversion step, teacher with gradients / frozen": (inversion_step(frozen=False), inversion_step(frozen=True)),
        "BatchNorm distance, torch.var_mean / ours": (bn_by_var_mean(), bn_of_ours()),
        "batch of 128, decoded PNGs / image bank": (batch_from_png(), batch_from_bank()),
    }
    print(f"{'seconds of one / seconds of the other':58} median   min   max")
    for name, (first, second) in pairs.items():
        found = ratios(first, second, repeats)
        print(f"{name:58} {statistics.median(found):6.2f} {min(found):5.2f} {max(found):5.2f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each, in turn")
    parser.add_argument("--table", choices=("steps", "pairs", "both"), default="both")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, help="steps to measure")
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--peer", type=Path, help="a checkout of zju-vipa/CMI")
    Setting.add_to(parser)
    arguments = parser.parse_args(namespace=Setting())
    torch.manual_seed(0)
    others = {}
    if arguments.against:
        others["other"] = Other("steps.py", arguments, arguments.against, (".", "plugins", "baselines"))
    if arguments.peer:
        others["peer"] = Other("peer.py", arguments, arguments.peer, (".",))
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}, "
        f"{arguments.precision}, {arguments.batch} images, n = {arguments.repeats}"
    )
    try:
        if arguments.table != "pairs":
            step_table(arguments, arguments.only, arguments.repeats, others)
    finally:
        for other in others.values():
            other.close()
    if arguments.table != "steps":
        pair_table(arguments.repeats)


if __name__ == "__main__":
    main()
