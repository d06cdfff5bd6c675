"""Where a run runs: device, precision, folders; and what is written down of it."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, get_args

import torch

from dfkd_bench.errors import DfkdError
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.results.records import Environment
from dfkd_bench.stages.compiled import compiler_missing
from dfkd_bench.stages.network import Precision

__all__ = ["DeviceName", "Execution", "PrecisionName", "arithmetic", "describe", "execution"]

DeviceName = Literal["auto", "cpu", "cuda"]
PrecisionName = Literal["auto", "fp32", "bf16"]

_LIBRARIES = ("torch", "torchvision", "timm", "diffusers", "transformers", "numpy", "scikit-learn")


@dataclass(frozen=True)
class Execution:
    """How and where runs are executed. Not part of a spec: records say what it was.

    Attributes:
        device: where everything is computed.
        precision: `torch.bfloat16` (autocast; losses and statistics stay float32) or `torch.float32`.
        data_root: local datasets, or None for the hub's.
        asked: device and precision before `auto` was settled for this machine.
        deterministic: ask for kernels that answer the same each time, where PyTorch has them (CUDA alone).
        compile: a run's teacher and student go through `torch.compile`.
        graphs: capture steps as CUDA graphs and replay them (CUDA alone).
    """

    device: torch.device
    precision: Precision
    data_root: Path | None = None
    asked: tuple[DeviceName, PrecisionName] = ("auto", "auto")
    deterministic: bool = False
    graphs: bool = False
    compile: bool = False


def execution(
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    data_root: Path | None = None,
    *,
    here: bool = True,
    deterministic: bool = False,
    compile: bool = False,
    graphs: bool = False,
) -> Execution:
    """Settle `auto`: a GPU if there is one; bf16 where the processor computes with it, else float32.

    With `here` false the runs are executed on other machines, and this one need not have what is asked for.

    Raises:
        DfkdError: the device or precision is unknown, `cuda` is asked for and there is none, or `compile` and this
            machine has no compiler.
    """
    if device not in get_args(DeviceName):
        raise DfkdError(
            f"'{device}' is no device: choose auto, cpu or cuda. Which of several GPUs it is CUDA_VISIBLE_DEVICES "
            "says, and Apple's are not supported"
        )
    if precision not in get_args(PrecisionName):
        raise DfkdError(f"'{precision}' is no precision: choose auto, fp32 or bf16")
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and here and not has_gpu:
        raise DfkdError("no CUDA device was found: use --device cpu, or install a torch build that fits the driver")
    found = torch.device("cuda" if has_gpu and device != "cpu" else "cpu")
    bf16 = precision == "bf16" or (precision == "auto" and _computes_bf16(found))
    if compile and graphs:
        raise DfkdError("--compile and --graphs together are untried: leave one of them out")
    missing = compiler_missing(found.type) if compile and here else None
    if missing is not None:
        raise DfkdError(f"--compile needs {missing}, and there is none here: install it, or leave --compile out")
    settled = torch.bfloat16 if bf16 else torch.float32
    return Execution(found, settled, data_root, (device, precision), deterministic, graphs, compile)


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        # From Ampere on.
        known = _gpu_facts()
        return known[1] >= 8 if known else bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without these instructions a CPU emulates bf16, more slowly than it computes float32.
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities == "AVX512" and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def _gpu_facts() -> tuple[str, float] | None:
    """Name and compute capability of the GPU in use by the driver's own tool; None if it does not say.

    PyTorch would open the device to tell, and keep some hundred megabytes of it: a grid's parent has no use for it.
    """
    which = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
    command = ["nvidia-smi", "-i", which, "--query-gpu=name,compute_cap", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        name, _, capability = done.stdout.strip().rpartition(",")
        return name.strip(), float(capability)
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


@contextmanager
def arithmetic(execution: Execution) -> Iterator[None]:
    """How a run computes on CUDA: in float32 that is no TF32, deterministic if that is asked for. Nothing on a CPU.

    cuDNN would take TF32, with ten bits of mantissa, for a float32 convolution. Deterministic kernels are asked for,
    not enforced: an operation that has none (the gradient of `grid_sample` is one) warns once and varies.
    """
    if execution.device.type != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic
    strict = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    if execution.deterministic:
        # Read when cuBLAS begins; without it, it picks its work space anew for each stream.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        cudnn.deterministic = True
        torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32, cudnn.deterministic = before
        if execution.deterministic:
            torch.use_deterministic_algorithms(strict[0], warn_only=strict[1])


def describe(execution: Execution, registry: Registry, *, computing: bool = True) -> Environment:
    """The hardware and versions, for a record. With `computing` false a GPU is asked for its name and not opened."""
    cuda = execution.device.type == "cuda"
    return Environment(
        device=execution.device.type,
        hardware=_gpu(execution.device, computing) if cuda else _processor(),
        precision="bf16" if execution.precision == torch.bfloat16 else "fp32",
        threads=torch.get_num_threads(),
        platform=_platform(),
        versions={"python": platform.python_version(), **_versions()},
        plugins=registry.versions(),
        tf32=False if cuda else None,
        deterministic=execution.deterministic if cuda else None,
        graphs=execution.graphs if cuda else None,
        compiled=execution.compile,
        notes=_notes(execution) if cuda else (),
    )


def _gpu(device: torch.device, computing: bool) -> str:
    known = None if computing else _gpu_facts()
    return known[0] if known else torch.cuda.get_device_name(device)


def _notes(execution: Execution) -> tuple[str, ...]:
    if execution.asked[1] == "auto" and execution.precision == torch.float32:
        return ("this GPU does not compute in bf16: float32 in its place",)
    return ()


def _platform() -> str:
    """System, processor kind and C library; not the kernel's release, which says nothing of a result."""
    library = "".join(platform.libc_ver())
    return "-".join(part for part in (platform.system(), platform.machine(), library) if part)


def _versions() -> dict[str, str]:
    found = {}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()
