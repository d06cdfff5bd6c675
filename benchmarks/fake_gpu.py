"""A GPU that is not there: PyTorch's fake tensors on the device `cuda`, and all that a run asks of it.

Shapes, types and devices are those of a GPU, values are none: nothing is computed and no driver is needed. What the
fake tensors leave to a driver is answered here: generators and their state, the moving of modules, the clock and the
memory, and the way back through a graph, which autograd's engine would walk on a stream (`fake_backward`).
`torch.cuda.is_available()` stays false.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from device_watch import DeviceWatch
from fake_backward import Hook, Hooks, walk_back
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

__all__ = ["GPU", "fake_gpu"]

#: As a run has it: without an index.
GPU = torch.device("cuda")

_seeds = itertools.count(1)
_devices: dict[int, torch.device] = {}


class FakeGenerator(torch._C.Generator):
    """A generator of a device's, whose draws have no values. Known by its seed, which no other has."""

    def __new__(cls, device: torch.device | str = "cpu") -> FakeGenerator:
        made = super().__new__(cls)
        made.manual_seed(0)
        _devices[made.initial_seed()] = torch.device(device)
        return made

    def __init__(self, device: torch.device | str = "cpu") -> None:
        pass

    @property
    def device(self) -> torch.device:
        """Where it draws."""
        return _devices[self.initial_seed()]

    def manual_seed(self, seed: int) -> FakeGenerator:
        """Itself; the seed that was asked for makes no difference."""
        device = _devices.get(self.initial_seed())
        super().manual_seed(next(_seeds))
        if device is not None:
            _devices[self.initial_seed()] = device
        return self

    def get_state(self) -> Tensor:
        """Of a CUDA generator's size, on the CPU as theirs is."""
        return torch.zeros(16, dtype=torch.uint8)

    def set_state(self, state: Tensor) -> FakeGenerator:
        """Itself.

        Raises:
            TypeError: the state is not on the CPU.
        """
        if state.device.type != "cpu" or state.dtype != torch.uint8:
            raise TypeError("RNG state must be a torch.ByteTensor")
        return self


def generator_device(generator: torch._C.Generator) -> torch.device:
    """The device of a generator as a kernel is given it."""
    return _devices.get(generator.initial_seed(), torch.device("cpu"))


def _apply(self: nn.Module, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, whose own way to swap a parameter's data fake tensors do not take."""
    for child in self.children() if recurse else ():
        child._apply(fn)
    for name, parameter in self._parameters.items():
        if parameter is not None:
            with torch.no_grad():
                moved = fn(parameter)
            # As the real one: the parameter stays the same object where it does not move.
            if moved is not parameter:
                self._parameters[name] = nn.Parameter(moved, parameter.requires_grad)
    for name, buffer in self._buffers.items():
        if buffer is not None:
            self._buffers[name] = fn(buffer)
    return self


class _Event:
    def __init__(self, **_: object) -> None:
        pass

    def record(self) -> None:
        pass

    def elapsed_time(self, _: _Event) -> float:
        return 1.0


def _set_rng_state(state: Tensor, device: object = None) -> None:
    if state.device.type != "cpu":
        raise TypeError("RNG state must be a torch.ByteTensor")


_CUDA: dict[str, Any] = {
    "reset_peak_memory_stats": lambda device=None: None,
    "max_memory_allocated": lambda device=None: 0,
    "max_memory_reserved": lambda device=None: 0,
    "Event": _Event,
    "get_rng_state": lambda device=None: torch.zeros(16, dtype=torch.uint8),
    "set_rng_state": _set_rng_state,
    "manual_seed_all": lambda seed: None,
    "is_bf16_supported": lambda including_emulation=True: True,
    "get_device_name": lambda device=None: "no GPU",
}


@contextmanager
def fake_gpu(watch: DeviceWatch) -> Iterator[None]:
    """Everything inside sees a GPU; `watch` sees what it does with it. For a process of its own: much is patched."""
    hooks = Hooks()

    def backward(tensor: Tensor, gradient: Tensor | None = None) -> None:
        with torch.no_grad():
            walk_back(tensor, torch.ones_like(tensor) if gradient is None else gradient, hooks)
        watch.went_back()

    def register_hook(tensor: Tensor, hook: Hook) -> Any:
        return hooks.register(tensor, hook)

    def synchronize(device: object = None) -> None:
        watch.note("wait", "synchronize")

    with ExitStack() as stack:

        def put(target: Any, name: str, value: Any) -> None:
            stack.enter_context(mock.patch.object(target, name, value))

        put(torch, "Generator", FakeGenerator)
        put(nn.Module, "_apply", _apply)
        put(Tensor, "backward", backward)
        put(Tensor, "register_hook", register_hook)
        for name, value in {**_CUDA, "synchronize": synchronize}.items():
            put(torch.cuda, name, value)
        for module in (torch, torch.random):
            put(module, "set_rng_state", _set_rng_state)
        put(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        # Optimizers take their fast paths for the types that they know.
        put(sys.modules["torch.optim.optimizer"], "_foreach_supported_types", [Tensor, nn.Parameter, FakeTensor])
        watch.generator_device = generator_device
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(watch)
        yield
