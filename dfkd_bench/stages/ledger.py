"""The cost ledger: what a run spent, by phase."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from torch.utils.hooks import RemovableHandle

__all__ = ["CostLedger", "PhaseCost"]


class PhaseCost(BaseModel):
    """What one phase spent.

    `forward` and `backward` count images through each network by its role; a diffusion model's evaluations are the
    forward images of the role `diffusion`. `flops` counts multiplications and additions of convolutions, matrix
    products and attention, backward passes included, so that it does not depend on the machine.
    """

    model_config = ConfigDict(extra="forbid")

    seconds: float = Field(0.0, description="wall time, the device synchronized at both ends")
    images: int = Field(0, description="images that the phase put out or looked at")
    forward: dict[str, int] = Field(default_factory=dict, description="images forward, by network")
    backward: dict[str, int] = Field(default_factory=dict, description="images backward, by network")
    flops: int = Field(0, description="floating-point operations, counted")
    peak_memory: int = Field(
        0, description="bytes; on CUDA the phase's peak allocation, else the process's peak so far"
    )
    reserved_memory: int | None = Field(
        None, description="bytes; on CUDA the most that the allocator held, which is what a card must have; else null"
    )


class CostLedger:
    """Books passes, images, operations, seconds and memory to the phase that is open."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.phases: dict[str, PhaseCost] = {}
        self._open: str | None = None
        self._asides: list[tuple[str, Callable[[], float]]] = []

    @contextmanager
    def phase(self, name: str) -> Iterator[PhaseCost]:
        """Everything inside is booked to `name`. Phases do not nest, but see `aside`."""
        if self._open is not None:
            raise RuntimeError(f"phase '{name}' inside phase '{self._open}'")
        cost = self.phases.setdefault(name, PhaseCost())
        self._open = name
        self._synchronize()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        start = time.perf_counter()
        try:
            yield cost
            # Not where something was raised: a device that broke raises again, and hides what it was.
            self._synchronize()
            for other, seconds in self._asides:
                cost.seconds -= (took := seconds())
                self.phases[other].seconds += took
        finally:
            cost.seconds += time.perf_counter() - start
            self._asides = []
            cost.peak_memory = max(cost.peak_memory, self._peak_memory())
            if self.device.type == "cuda":
                reserved = int(torch.cuda.max_memory_reserved(self.device))
                cost.reserved_memory = max(cost.reserved_memory or 0, reserved)
            self._open = None

    @contextmanager
    def aside(self, name: str) -> Iterator[PhaseCost]:
        """Inside an open phase: what is inside is booked to `name` instead, but for memory.

        The device is not synchronized for it: it takes its own times, which are read when the phase ends.
        """
        if self._open is None:
            raise RuntimeError(f"'{name}' aside of no phase")
        around, self._open = self._open, name
        cost = self.phases.setdefault(name, PhaseCost())
        watch = _DeviceWatch() if self.device.type == "cuda" else _Watch()
        try:
            yield cost
            watch.stop()
            self._asides.append((name, watch.seconds))
        finally:
            self._open = around

    @contextmanager
    def measured(self) -> Iterator[PhaseCost]:
        """What the inside costs, complete when the block has ended; it is booked to the open phase as ever."""
        self._synchronize()
        start = time.perf_counter()
        with self.counted() as part:
            yield part
        self._synchronize()
        part.seconds = time.perf_counter() - start

    @contextmanager
    def counted(self) -> Iterator[PhaseCost]:
        """As `measured`, but passes and operations alone: it waits for nothing."""
        part = PhaseCost()
        opened = self.phases[self._open].model_copy(deep=True) if self._open is not None else PhaseCost()
        yield part
        if self._open is not None:
            now = self.phases[self._open]
            part.forward, part.backward = (
                {role: count - before.get(role, 0) for role, count in after.items() if count != before.get(role, 0)}
                for before, after in ((opened.forward, now.forward), (opened.backward, now.backward))
            )
            part.flops = now.flops - opened.flops

    @contextmanager
    def unbooked(self) -> Iterator[None]:
        """Nothing inside is booked: `repeat` says what it costs."""
        around, self._open = self._open, None
        try:
            yield
        finally:
            self._open = around

    def repeat(self, part: PhaseCost) -> None:
        """Book what a part `measured` when it was made, whose result was now read from a cache or replayed instead.

        So a run costs the same whether it found the part or made it.
        """
        if self._open is None:
            return
        cost = self.phases[self._open]
        cost.seconds += part.seconds
        cost.flops += part.flops
        for passes, more in ((cost.forward, part.forward), (cost.backward, part.backward)):
            for role, count in more.items():
                passes[role] = passes.get(role, 0) + count

    def watch(self, module: nn.Module, role: str) -> list[RemovableHandle]:
        """Count every pass of `module` under `role` from now on. Its first positional argument is the batch.

        Passes through a trained module cost twice their forward operations on the way back (to the input and to the
        weights), through a frozen one once.
        """
        counting: list[FlopCounterMode] = []
        flops_per_image: dict[torch.Size, int] = {}
        batch_shape, armed = torch.Size(), False

        def before(_: nn.Module, args: tuple[Any, ...]) -> None:
            nonlocal batch_shape, armed
            batch_shape, armed = args[0].shape, False
            if batch_shape[1:] not in flops_per_image:
                counting.append(FlopCounterMode(display=False, custom_mapping=_ON_THE_CPU))
                counting[-1].__enter__()

        def at_entry(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            # The gradient of what the first weights put out: it arrives once for this pass, whatever the loss looks
            # at (logits, features, an inner map), and never in a pass that nobody differentiates.
            nonlocal armed
            if torch.compiler.is_compiling():
                return  # a hook that did anything would break the graph: see `after`
            if not armed and isinstance(output, Tensor) and output.requires_grad:
                armed = True
                count, shape = int(batch_shape[0]), batch_shape[1:]
                factor = 2 if any(parameter.requires_grad for parameter in module.parameters()) else 1
                output.register_hook(
                    lambda _: self._book("backward", role, count, factor * count * flops_per_image[shape])
                )

        def after(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            raised = output is None  # the hook is called all the same then, to leave the counter
            count, shape = int(batch_shape[0]), batch_shape[1:]
            if counting:
                mode = counting.pop()
                mode.__exit__(None, None, None)
                if count and not raised:
                    flops_per_image[shape] = mode.get_total_flops() // count
            if count and not raised:
                self._book("forward", role, count, count * flops_per_image[shape])
                # A compiled pass calls no entry's hook; a loss sees nothing of it but the output.
                at_entry(_, __, output)

        parts = [part for part in module.modules() if any(True for _ in part.parameters(recurse=False))]
        entries = [part for part in parts if part is not module] or [module]
        return [
            module.register_forward_pre_hook(before),
            *(entry.register_forward_hook(at_entry) for entry in entries),
            module.register_forward_hook(after, always_call=True),
        ]

    def _book(self, direction: str, role: str, count: int, flops: int) -> None:
        if self._open is None:
            return
        cost = self.phases[self._open]
        passes = cost.forward if direction == "forward" else cost.backward
        passes[role] = passes.get(role, 0) + count
        cost.flops += flops

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _peak_memory(self) -> int:
        if self.device.type == "cuda":
            return int(torch.cuda.max_memory_allocated(self.device))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024

    def state_dict(self) -> dict[str, Any]:
        """The phases as plain data."""
        return {name: cost.model_dump(exclude_none=True) for name, cost in self.phases.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Resume from `state`."""
        self.phases = {name: PhaseCost.model_validate(cost) for name, cost in state.items()}


def _attention_flops(
    query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, out_shape: Any = None, **__: Any
) -> int:
    return int(sdpa_flop_count(query, key, value))


# The counter knows attention on a GPU alone.
_ON_THE_CPU = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention_flops}


class _Watch:
    def __init__(self) -> None:
        self._start = self._end = time.perf_counter()

    def stop(self) -> None:
        self._end = time.perf_counter()

    def seconds(self) -> float:
        return self._end - self._start


class _DeviceWatch:
    """By the times at which the device reaches its events."""

    def __init__(self) -> None:
        self._start, self._end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        self._start.record()

    def stop(self) -> None:
        self._end.record()

    def seconds(self) -> float:
        return float(self._start.elapsed_time(self._end)) / 1000
