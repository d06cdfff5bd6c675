"""A CUDA graph on a CPU: operations are recorded with their tensors, and done again with the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

__all__ = ["Tape"]

T = TypeVar("T")
aten = torch.ops.aten
# As a graph does: nothing for autograd, and no count of what is written to a tensor.
_BELOW = torch._C.DispatchKeySet(torch._C.DispatchKey.ADInplaceOrView) | torch._C.DispatchKeySet(
    torch._C.DispatchKey.AutogradCPU
)


class Tape(TorchDispatchMode):
    """In a `CudaCapturer`'s place. What a graph cannot have, a number for the host, it refuses as CUDA does."""

    def __init__(self) -> None:
        super().__init__()
        self.captures, self.replays, self.warm_ups = 0, 0, 0
        self._calls: list[tuple[Any, ...]] = []

    def warm_up(self, function: Callable[[], T]) -> T:
        self.warm_ups += 1
        return function()

    def capture(self, function: Callable[[], T]) -> Callable[[], T]:
        self.captures += 1
        self._calls = calls = []
        with self:
            output = function()
        # On a CPU it was done while it was recorded.
        done = [True]

        def replay() -> T:
            self.replays += 1
            if not (done and done.pop()):
                with torch.no_grad(), torch._C._ExcludeDispatchKeyGuard(_BELOW):
                    for func, args, kwargs, outputs in calls:
                        _again(func(*args, **kwargs), outputs)
            return output

        return replay

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is aten._local_scalar_dense.default:
            raise RuntimeError("operation not permitted when stream is capturing")
        outputs = func(*args, **(kwargs or {}))
        if not func.is_view:
            self._calls.append((func, args, kwargs or {}, outputs))
        return outputs


def _again(new: Any, old: Any) -> None:
    for now, then in zip(tree_leaves(new), tree_leaves(old), strict=True):
        if isinstance(then, torch.Tensor) and now.data_ptr() != then.data_ptr():
            then.copy_(now)
