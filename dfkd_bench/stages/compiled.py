"""A network's passes through `torch.compile`, wherever nobody looks into them."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sysconfig
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import _get_current_dispatch_mode

__all__ = ["Compiled", "compiler_missing"]

# A compilation takes minutes on a slow processor, and PyTorch gives up after eight: the odd sizes stay eager.
_MOST_KINDS = 6


def compiler_missing(device: str) -> str | None:
    """What `torch.compile` would need on a device (`cpu` or `cuda`) and does not find, as a noun; None if all is there.

    On a CPU it writes C++ and on a GPU Triton, whose launchers are C. Both include Python's headers.
    """
    if device == "cuda" and importlib.util.find_spec("triton") is None:
        return "Triton"
    if not (_finds_c() if device == "cuda" else _finds_cxx()):
        return "a C compiler" if device == "cuda" else "a C++ compiler"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python's headers"
    return None


def _finds_c() -> bool:
    return any(shutil.which(name) for name in (os.environ.get("CC", ""), "gcc", "clang") if name)


def _finds_cxx() -> bool:
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return False
    return True


class Compiled:
    """Runs a body's own forward compiled, and the body's hooks around it as ever.

    A pass stays eager where it would be worth nothing or wrong to compile it:

    * somebody looks into it: a module inside has more hooks than when this was made, as in `Network.observe`. Each hook
      would break the graph.
    * its kind (size, mode, which gradients) comes for the first time, or is the seventh: much may come only once.
    * a dispatch mode is active: the cost ledger counts the operations of a first pass, which a graph would hide.

    Args:
        body: whose forward it is. It is not kept, so that a copy of a network runs with the copy's weights.
        backend: of `torch.compile`: its name, or itself.
    """

    def __init__(self, body: nn.Module, backend: str | Callable[..., Any]) -> None:
        import torch._functorch.config as autograd

        # Compiled passes would refuse `retain_graph` otherwise.
        autograd.donated_buffer = False
        # PyTorch bounds recompilations by code object: each network has its own.
        own = types.FunctionType(_forward.__code__.replace(), globals(), _forward.__name__)
        self._run = torch.compile(own, backend=backend, dynamic=False)
        self._hooks = _hooks_inside(body)
        self._kinds: dict[tuple[Any, ...], bool] = {}

    @contextmanager
    def inside(self, body: nn.Module) -> Iterator[None]:
        """Calls of `body` in this block come here. An instance with a forward of its own stays as it is."""
        if "forward" in vars(body):
            yield
            return
        # In the instance's own dictionary, where it is found before the class's method: its hooks run around it.
        vars(body)["forward"] = partial(self._pass, body)
        try:
            yield
        finally:
            del vars(body)["forward"]

    def _pass(self, body: nn.Module, images: Tensor) -> Tensor:
        return (self._run if self._wanted(body, images) else _forward)(body, images)

    def _wanted(self, body: nn.Module, images: Tensor) -> bool:
        if _hooks_inside(body) != self._hooks:
            return False
        kind = (
            *(images.shape, images.dtype, images.requires_grad),
            *(body.training, any(parameter.requires_grad for parameter in body.parameters())),
            *(
                torch.is_grad_enabled(),
                torch.is_inference_mode_enabled(),
                torch.is_autocast_enabled(images.device.type),
            ),
        )
        if kind not in self._kinds:
            self._kinds[kind] = len(self._kinds) < _MOST_KINDS
            return False
        return self._kinds[kind] and _get_current_dispatch_mode() is None


def _forward(body: nn.Module, images: Tensor) -> Tensor:
    logits: Tensor = type(body).forward(body, images)
    return logits


def _hooks_inside(body: nn.Module) -> int:
    return sum(
        len(module._forward_hooks)
        + len(module._forward_pre_hooks)
        + len(module._backward_hooks)
        + len(module._backward_pre_hooks)
        for module in body.modules()
        if module is not body
    )
