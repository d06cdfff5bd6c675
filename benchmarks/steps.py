"""The six steps that speed is measured on, each with its floor: CIFAR-10 shapes, WRN-40-2 teacher, WRN-16-1 student.

It imports whichever `dfkd_bench` is first on the path, and from it nothing but what plugins import, the networks and
the methods. So that one checkout can be timed beside another, it answers as a process of its own:

    python benchmarks/steps.py --batch 128 --precision bf16 --steps 4

says first where its package lies, then reads a step's name on each line of its standard input (with " floor" at its end
for the floor) and answers with the seconds of one step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from serving import NAMES, Setting, serve
from torch import Tensor, nn
from torch.nn import functional as F

import dfkd_bench
from dfkd_baselines.cmi import CmiOptions, ContrastiveInversion
from dfkd_baselines.deepinversion import DeepInversion, DeepInversionOptions
from dfkd_baselines.fast import FastInversion, FastOptions
from dfkd_baselines.generative import Generative, GenerativeOptions
from dfkd_baselines.nayer import NayerOptions, NoisyLayerInversion
from dfkd_bench import CostLedger, ImageBank, Network, Round, StageContext, Synthesizer, SyntheticBatch
from dfkd_bench.blocks.kd import kl_divergence
from dfkd_bench.blocks.views import crop_and_flip
from dfkd_bench.datasets.cards import CIFAR10
from dfkd_bench.models.wrn import wrn16_1, wrn40_2

__all__ = ["Steps"]

CPU = torch.device("cpu")

Work = Callable[[], object]


class Steps:
    """Every step by its name; each is made when it is first asked for.

    Args:
        setting: how large they are.
        device: where they run.
        compiled: teacher and student go through `torch.compile`, as with `dfkd-bench run --compile`.
    """

    def __init__(self, setting: Setting, device: torch.device = CPU, *, compiled: bool = False) -> None:
        self.setting, self.device, self._compiled = setting, device, compiled
        self.precision = torch.bfloat16 if setting.precision == "bf16" else torch.float32
        torch.manual_seed(0)
        self.teacher, self.student = (self._network(body).requires_grad_(False) for body in (wrn40_2(10), wrn16_1(10)))
        self._made: dict[str, Work] = {}

    def seconds(self, name: str) -> float:
        """Of one step."""
        work = self.work(name)
        self._synchronize()
        start = time.perf_counter()
        work()
        self._synchronize()
        return (time.perf_counter() - start) / self.setting.steps

    def work(self, name: str) -> Work:
        """A round of the step's; it was called once when it was made."""
        if name not in self._made:
            self._made[name] = self._make(name)
            self._made[name]()
        return self._made[name]

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _network(self, body: nn.Module) -> Network:
        network = Network(body, CIFAR10, self.precision).placed(self.device).eval()
        if self._compiled:
            network.compile_passes()
        return network

    def _make(self, name: str) -> Work:
        step, _, floor = name.partition(" ")
        if step == "distillation":
            return self._repeated(self._distillation_floor() if floor else self._distillation())
        stage = self._synthesizer(step)
        return self._repeated(self._passes(step, stage)) if floor else (lambda: stage.synthesize(Round(1, False)))

    def _repeated(self, work: Work) -> Work:
        return lambda: [work() for _ in range(self.setting.steps)]

    def _context(self) -> StageContext:
        return StageContext(
            teacher=self.teacher,
            student=self.student,
            card=CIFAR10,
            device=self.device,
            precision=self.precision,
            generator=self._stream(),
            ledger=CostLedger(self.device),
            cache=Path("no-cache"),
            tick=lambda done, total: None,
        )

    def _stream(self) -> torch.Generator:
        return torch.Generator(self.device).manual_seed(0)

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device)

    def _synthesizer(self, step: str) -> Synthesizer[Any]:
        options: dict[str, Any] = {"batch_size": self.setting.batch, "steps": self.setting.steps}
        context = self._context()
        if step == "deepinversion":
            return DeepInversion(DeepInversionOptions(**options), context)
        if step == "cmi":
            return ContrastiveInversion(CmiOptions(**options), context)
        if step == "fast":
            return FastInversion(FastOptions(**options), context)
        if step == "nayer":
            return NoisyLayerInversion(NayerOptions(**options, loops=1), context)
        if step == "dfq":
            return Generative(GenerativeOptions(**options, bn=1.0, adv=1.0, bal=20.0), context)
        raise ValueError(f"unknown step '{step}': choose from {', '.join(NAMES)}")

    def _passes(self, step: str, stage: Any) -> Work:
        """Generator, teacher and student forward and backward with a trivial loss, and the second view of `cmi`."""
        batch = self.setting.batch
        generator = stage.inner if step == "fast" else getattr(stage, "generator", None)
        latents = (
            stage.embeddings[torch.arange(batch, device=self.device) % 10]
            if step == "nayer"
            else torch.randn(batch, 256, device=self.device)
        )
        latents = latents.requires_grad_(step in ("cmi", "fast"))
        pixels = self._rand(batch, 3, 32, 32).requires_grad_()

        def work() -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
                images = pixels if generator is None else generator(latents)
                images = images.float().contiguous(memory_format=torch.channels_last)
                logits = [self.teacher.body(images), self.student.body(images)]
                if step == "cmi":
                    logits.append(self.teacher.body(images))
            _backward([latents, pixels, *(generator.parameters() if generator else ())], logits)

        return work

    def _distillation(self) -> Work:
        student, stream = self._network(wrn16_1(10)).train(), self._stream()
        optimizer = torch.optim.SGD(student.parameters(), 0.1, 0.9, weight_decay=1e-4)
        bank = ImageBank((3, 32, 32), self.device, stream)
        bank.add(SyntheticBatch(self._rand(2048, 3, 32, 32), self._rand(2048).long()))

        def work() -> None:
            images = crop_and_flip(bank.draw(self.setting.batch)[0], CIFAR10.transform, stream).float() / 255
            with torch.no_grad():
                wanted = self.teacher(images)
            loss = kl_divergence(student(images), wanted, 20.0)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()

        return work

    def _distillation_floor(self) -> Work:
        student = self._network(wrn16_1(10)).train()
        images = self._rand(self.setting.batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)

        def work() -> None:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == torch.bfloat16):
                with torch.no_grad():
                    self.teacher.body(images)
                logits = student.body(images)
            _backward(list(student.parameters()), [logits])

        return work


def _backward(leaves: list[Tensor], logits: list[Tensor]) -> None:
    for leaf in leaves:
        leaf.grad = None
    torch.stack([F.log_softmax(each.float(), dim=1)[:, 0].mean() for each in logits]).sum().backward()


def main() -> None:
    """Answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    Setting.add_to(parser)
    setting = parser.parse_args(namespace=Setting())
    serve(dfkd_bench.__file__, lambda: Steps(setting).seconds)


if __name__ == "__main__":
    main()
