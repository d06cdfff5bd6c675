"""The benchmark of speed: its arithmetic, its processes, and a tiny stand-in for the peer's checkout."""

from __future__ import annotations

import sys
from pathlib import Path
from textwrap import dedent

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"

# The entry points of zju-vipa/CMI that are called, and nothing that they do there.
PEER = {
    "registry.py": """
        import torch
        NORMALIZE_DICT = {"cifar10": {"mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}}
        class Model(torch.nn.Linear):
            def forward(self, x, return_features=False):
                logits = super().forward(x.flatten(1))
                return (logits, x) if return_features else logits
        def get_model(name, num_classes):
            print("a checkout may talk")
            return Model(3 * 32 * 32, num_classes)
        """,
    "datafree/__init__.py": "from . import criterions, synthesis, utils",
    "datafree/models/__init__.py": "",
    "datafree/models/generator.py": """
        import torch
        class Generator(torch.nn.Linear):
            def __init__(self, nz, ngf, img_size, nc):
                super().__init__(nz, nc * img_size**2)
        """,
    "datafree/utils.py": """
        class Normalizer:
            def __init__(self, mean, std):
                self.mean, self.std = mean, std
        """,
    "datafree/criterions.py": """
        class KLDiv:
            def __init__(self, T):
                self.T = T
            def __call__(self, student, teacher):
                return ((student - teacher) / self.T).square().mean()
        """,
    "datafree/synthesis.py": """
        import torch
        class Synthesizer:
            def __init__(self, teacher, student, img_size, iterations, synthesis_batch_size, sample_batch_size,
                         normalizer, device, **more):
                self.shape, self.wanted = (sample_batch_size, *img_size), more
            def synthesize(self):
                assert set(self.needs) <= set(self.wanted), self.wanted
            def sample(self):
                return torch.rand(self.shape)
        class DeepInvSyntheiszer(Synthesizer):
            needs = ("num_classes", "save_dir", "transform", "tv")
        class GenerativeSynthesizer(Synthesizer):
            needs = ("generator", "nz", "balance")
        class CMISynthesizer(Synthesizer):
            needs = ("num_classes", "save_dir", "transform", "generator", "nz", "head_dim", "bank_size", "cr_T")
        """,
}


@pytest.fixture
def serving(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    yield __import__("serving")
    sys.modules.pop("serving")


@pytest.fixture
def setting(serving):
    return serving.Setting(batch=2, precision="fp32", steps=1)


def test_ratios_are_taken_pair_by_pair(serving):
    assert serving.summary([2.0, 9.0, 4.0], [1.0, 3.0, 10.0]) == "2.00 (0.40..3.00)"


def test_every_step_and_its_floor_are_timed_in_a_process_of_their_own(serving, setting):
    other = serving.Other("steps.py", setting, BENCHMARKS.parent, (".", "plugins", "baselines"))
    try:
        for name in serving.NAMES:
            assert other.seconds(name) > 0
            assert other.seconds(f"{name} floor") > 0
    finally:
        other.close()


def test_a_checkout_that_is_not_the_one_that_was_asked_for_is_an_error(serving, setting, tmp_path):
    (tmp_path / "sub").symlink_to(BENCHMARKS.parent)
    with pytest.raises(RuntimeError, match="which is not in"):
        serving.Other("steps.py", setting, tmp_path, ("sub", "sub/plugins", "sub/baselines"))


def test_a_checkout_of_the_peer_is_timed_beside_ours(serving, setting, tmp_path):
    for name, text in PEER.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(dedent(text))
    peer = serving.Other("peer.py", setting, tmp_path, (".",))
    try:
        for name in ("deepinversion", "cmi", "dfq", "distillation"):
            assert peer.seconds(name) > 0
    finally:
        peer.close()


def test_a_process_that_fails_is_an_error(serving, setting, tmp_path):
    with pytest.raises(RuntimeError, match="ended with status 1"):
        serving.Other("peer.py", setting, tmp_path, (".",))
