"""Steps of a checkout of zju-vipa/CMI, timed as its own `datafree_kd.py` runs them; nothing of it is copied.

A process of its own, like `steps.py`. The checkout and what its requirements.txt names must be importable. Everything
is float32, as its half precision does not run; its rounds include the PNG files that it writes.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from typing import Any

import datafree
import datafree.models.generator
import registry
import torch
from serving import Setting, serve
from torchvision import transforms

__all__ = ["Peer"]


class Peer:
    """`deepinversion`, `cmi`, `dfq` and `distillation`; CMI has no other of our steps.

    Args:
        setting: how large the steps are; its precision is not heeded.
        folder: where the synthesizers may write their images.
    """

    def __init__(self, setting: Setting, folder: str) -> None:
        self.setting, self.folder = setting, folder
        torch.manual_seed(0)
        self.teacher = registry.get_model("wrn40_2", num_classes=10).eval()
        self.student = registry.get_model("wrn16_1", num_classes=10)
        for network in (self.teacher, self.student):
            network.requires_grad_(True)  # it freezes neither
        self.normalizer = datafree.utils.Normalizer(**registry.NORMALIZE_DICT["cifar10"])
        self.transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(**registry.NORMALIZE_DICT["cifar10"]),
            ]
        )
        self._made: dict[str, Callable[[], object]] = {}

    def seconds(self, name: str) -> float:
        """Of one step."""
        if name not in self._made:
            self._made[name] = self._distillation() if name == "distillation" else self._synthesizer(name).synthesize
            self._made[name]()
        start = time.perf_counter()
        self._made[name]()
        return (time.perf_counter() - start) / self.setting.steps

    def _synthesizer(self, name: str) -> Any:
        batch, synthesis = self.setting.batch, datafree.synthesis
        common = {
            "teacher": self.teacher,
            "student": self.student,
            "img_size": (3, 32, 32),
            "iterations": self.setting.steps,
            "synthesis_batch_size": batch,
            "sample_batch_size": batch,
            "normalizer": self.normalizer,
            "device": "cpu",
        }
        if name == "dfq":
            weights = {"lr_g": 1e-3, "adv": 1.0, "bn": 1.0, "balance": 20.0}
            return synthesis.GenerativeSynthesizer(**common, **weights, generator=self._generator(), nz=256)
        pool = {"num_classes": 10, "save_dir": f"{self.folder}/{name}", "transform": self.transform}
        if name == "deepinversion":
            weights = {"lr_g": 0.1, "adv": 1.0, "bn": 10.0, "oh": 1.0, "tv": 1e-3}
            return synthesis.DeepInvSyntheiszer(**common, **pool, **weights)
        if name == "cmi":
            weights = {"lr_g": 1e-3, "adv": 0.5, "bn": 1.0, "oh": 1.0, "cr": 0.8, "cr_T": 0.1}
            shape = {"generator": self._generator(), "nz": 256, "head_dim": 256, "bank_size": batch * 160}
            return synthesis.CMISynthesizer(**common, **pool, **weights, **shape)
        raise ValueError(f"CMI has no step '{name}'")

    def _generator(self) -> torch.nn.Module:
        generator: torch.nn.Module = datafree.models.generator.Generator(nz=256, ngf=64, img_size=32, nc=3)
        return generator

    def _distillation(self) -> Callable[[], object]:
        """Batches come from the images of a round of DeepInversion, through its own loader."""
        images = self._synthesizer("deepinversion")
        images.synthesize()
        optimizer = torch.optim.SGD(self.student.parameters(), 0.1, weight_decay=1e-4, momentum=0.9)
        criterion = datafree.criterions.KLDiv(T=20)

        def work() -> None:
            self.student.train()
            for _ in range(self.setting.steps):
                batch = images.sample()
                with torch.no_grad():
                    wanted, _ = self.teacher(batch, return_features=True)
                loss = criterion(self.student(batch.detach()), wanted.detach())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()

        return work


def main() -> None:
    """Answer until the input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    Setting.add_to(parser)
    setting = parser.parse_args(namespace=Setting())
    with tempfile.TemporaryDirectory() as folder:
        serve(datafree.__file__, lambda: Peer(setting, folder).seconds)


if __name__ == "__main__":
    main()
