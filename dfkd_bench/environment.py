"""Where a run runs: device, precision, folders; and what is written down of it."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal

import torch

from dfkd_bench.errors import DfkdError
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.results.records import Environment
from dfkd_bench.stages.network import Precision

__all__ = ["DeviceName", "Execution", "PrecisionName", "describe", "execution"]

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
    """

    device: torch.device
    precision: Precision
    data_root: Path | None = None
    asked: tuple[DeviceName, PrecisionName] = ("auto", "auto")


def execution(
    device: DeviceName = "auto",
    precision: PrecisionName = "auto",
    data_root: Path | None = None,
    *,
    here: bool = True,
) -> Execution:
    """Settle `auto`: a GPU if there is one; bf16 where the processor computes with it, else float32.

    With `here` false the runs go on on other machines, and this one need not have what is asked for.

    Raises:
        DfkdError: `cuda` is asked for and there is none.
    """
    has_gpu = torch.cuda.is_available()
    if device == "cuda" and here and not has_gpu:
        raise DfkdError("no CUDA device was found: use --device cpu, or install a torch build that fits the driver")
    found = torch.device("cuda" if has_gpu and device != "cpu" else "cpu")
    bf16 = precision == "bf16" or (precision == "auto" and _computes_bf16(found))
    return Execution(found, torch.bfloat16 if bf16 else torch.float32, data_root, (device, precision))


def _computes_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # Without these instructions a CPU emulates bf16, more slowly than it computes float32.
    capabilities = torch.backends.cpu.get_cpu_capability()
    return capabilities == "AVX512" and bool(
        torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    )


def describe(execution: Execution, registry: Registry) -> Environment:
    """The hardware and versions, for a record."""
    cuda = execution.device.type == "cuda"
    return Environment(
        device=execution.device.type,
        hardware=torch.cuda.get_device_name(execution.device) if cuda else _processor(),
        precision="bf16" if execution.precision == torch.bfloat16 else "fp32",
        threads=torch.get_num_threads(),
        platform=_platform(),
        versions={"python": platform.python_version(), **_versions()},
        plugins=registry.versions(),
    )


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
