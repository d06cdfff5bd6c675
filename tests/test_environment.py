"""What a run is told of its device, what it asks of it, and what its record says of it. No GPU is needed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from support.e2e_kit import make_spec

from dfkd_bench import CostLedger, DfkdError
from dfkd_bench.engines.settings import WorkerSettings
from dfkd_bench.environment import Execution, arithmetic, describe, execution
from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.results.again import Again
from dfkd_bench.results.progress_file import Progress
from dfkd_bench.runs.gpu_sharing import on_gpu, together
from dfkd_bench.workbench import Workbench

GPU = torch.device("cuda")


@pytest.mark.parametrize("device", ["cuda:1", "mps", "gpu", "", torch.device("cuda")])
def test_a_device_that_is_none_is_refused_with_the_names_of_those_that_are(device):
    with pytest.raises(DfkdError, match=r"is no device: choose auto, cpu or cuda\."):
        execution(device)
    with pytest.raises(DfkdError, match="'fp16' is no precision: choose auto, fp32 or bf16"):
        execution("cpu", "fp16")


def flags():
    backends = torch.backends
    return (
        backends.cudnn.allow_tf32,
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
    )


@pytest.mark.parametrize("deterministic", [False, True])
def test_float32_is_no_tf32_on_a_gpu_and_deterministic_on_demand(deterministic, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = flags()
    assert before[0]  # PyTorch's default: or this test would prove nothing
    with arithmetic(Execution(GPU, torch.float32, deterministic=deterministic)):
        assert flags() == (False, False, deterministic, deterministic)
        assert ("CUBLAS_WORKSPACE_CONFIG" in os.environ) == deterministic
        with arithmetic(Execution(GPU, torch.float32)):  # as evaluation does
            assert flags() == (False, False, deterministic, deterministic)
    assert flags() == before
    with arithmetic(Execution(torch.device("cpu"), torch.float32, deterministic=deterministic)):
        assert flags() == before


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A driver's tool that tells of a GPU, and CUDA that may not be opened."""

    def tell(line):
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f'#!/bin/sh\necho "$2" >> {tmp_path}/asked\necho "{line}"\n')
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: pytest.fail("CUDA was opened"))
        return tmp_path / "asked"

    return tell


def test_a_grids_parent_knows_its_gpu_without_opening_it(told, monkeypatch, tmp_path):
    asked = told("NVIDIA H100 80GB HBM3, 9.0")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-5,3")
    bench = Workbench.make(results=tmp_path, deterministic=True)
    where = describe(bench.execution, bench.registry, computing=False)
    assert (where.device, where.hardware, where.precision) == ("cuda", "NVIDIA H100 80GB HBM3", "bf16")
    assert (where.tf32, where.deterministic, where.notes) == (False, True, ())
    assert set(asked.read_text().split()) == {"GPU-5"}
    settings = WorkerSettings.of(bench, checkpoint_seconds=1, again=Again())
    assert (settings.device, settings.precision, settings.deterministic) == ("cuda", "auto", True)


def test_a_gpu_without_bf16_computes_in_float32_and_the_record_says_so(told):
    told("Tesla V100-SXM2-16GB, 7.0")
    where = describe(execution(), default_registry(), computing=False)
    assert (where.precision, where.notes) == (
        "fp32",
        ("this GPU does not compute in bf16: float32 in its place",),
    )
    assert describe(execution(precision="fp32"), default_registry(), computing=False).notes == ()


def test_on_a_cpu_a_record_says_nothing_of_a_gpus_arithmetic():
    where = describe(execution("cpu"), default_registry())
    assert (where.tf32, where.deterministic, where.notes) == (None, None, ())


def test_a_run_that_goes_on_on_another_gpu_says_so_whatever_comes_after():
    here = describe(execution("cpu", "fp32"), default_registry())
    on = {name: here.model_copy(update={"hardware": name}) for name in ("A100", "H100")}
    first, second, third = (Progress.begin(make_spec(), {}, on[name]) for name in ("A100", "H100", "H100"))
    assert first.knowing(None).environment.notes == ()
    moved = second.knowing(first)
    assert moved.environment.notes == ("begun on A100, resumed on H100",)
    assert third.knowing(moved).record("finished", None).environment.notes == moved.environment.notes


def test_two_runs_on_one_gpu_know_of_each_other_and_no_dead_one_counts(tmp_path):
    (tmp_path / "999999999").write_text("")  # one that was killed
    with together(tmp_path) as shared:
        assert not shared()
        come = "from pathlib import Path; import sys; from dfkd_bench.runs.gpu_sharing import together\n"
        come += "with together(Path(sys.argv[1])) as shared: print(shared())"
        other = subprocess.run([sys.executable, "-c", come, tmp_path], capture_output=True, text=True, check=True)
        assert other.stdout == "True\n"
        assert shared()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    with on_gpu(torch.device("cpu")) as alone:
        assert not alone()


def test_a_device_that_broke_does_not_hide_what_broke_it(monkeypatch):
    def broken(*_):
        raise RuntimeError("CUDA error: device-side assert triggered")

    for name in ("synchronize", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda device: None)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 5)
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda device: 7)
    ledger = CostLedger(GPU)
    with ledger.phase("fine"):
        pass
    assert ledger.state_dict()["fine"]["reserved_memory"] == 7
    with pytest.raises(ValueError, match="what it was"), ledger.phase("broken"):
        monkeypatch.setattr(torch.cuda, "synchronize", broken)
        raise ValueError("what it was")
    assert ledger.phases["broken"].peak_memory == 5
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    with ledger.phase("next"):
        pass
