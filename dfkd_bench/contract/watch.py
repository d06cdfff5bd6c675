"""What a stage does on its way to its images, seen from outside: what it shows the networks, clamps and optimizes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dfkd_bench.contract.world import World

__all__ = ["MUCH", "Watch"]

_CLAMPS = {torch.clamp, torch.clamp_, torch.clip, Tensor.clamp, Tensor.clamp_, Tensor.clip, Tensor.clip_}
#: Of an image's pixels outside [0, 1], what is no longer chance: normal pixels in normalized space reach some 15 %,
#: pixels made in [-1, 1] half, pixels normalized twice more than that.
MUCH = 0.4


@dataclass
class _Leaf:
    """A tensor without history that a loss was differentiated with respect to."""

    tensor: Tensor
    before: Tensor
    gradients: int = 0
    moved: bool = False

    def look(self) -> None:
        """Note whether it has changed."""
        self.moved = self.moved or not torch.equal(self.tensor.detach(), self.before)


class Watch(TorchFunctionMode):
    """Notes, while it is entered by `on`, what a stage does.

    Args:
        world: its networks and images are watched.

    Attributes:
        shown: the largest share of an image batch's pixels outside [0, 1] that a network was given.
        clamped: the same of image batches that were clamped to [0, 1].
    """

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world
        self._known = {id(p) for network in (world.teacher, world.student) for p in network.parameters()}
        self._leaves: dict[int, _Leaf] = {}
        self.shown = self.clamped = 0.0

    @contextmanager
    def on(self) -> Iterator[None]:
        """Watch what happens inside."""
        with ExitStack() as stack:
            for network in (self._world.teacher, self._world.student):
                handle = network.register_forward_pre_hook(self._show)
                stack.callback(handle.remove)
            stack.enter_context(self)
            yield

    def _show(self, _: Any, inputs: tuple[Tensor, ...]) -> None:
        self.shown = max(self.shown, _outside(inputs[0]))

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.backward:
            return self._backward(func, args, kwargs)
        if func in _CLAMPS:
            low, high = (*args[1:], None, None)[:2]
            low, high = kwargs.get("min", low), kwargs.get("max", high)
            to_unit = all(isinstance(bound, int | float) for bound in (low, high)) and (low, high) == (0, 1)
            if to_unit and args[0].shape[1:] == torch.Size(self._world.card.image_shape):
                self.clamped = max(self.clamped, _outside(args[0]))
        return func(*args, **kwargs)

    def _backward(self, func: Any, args: Any, kwargs: Any) -> Any:
        leaves = []
        for tensor in _leaves(args[0]):
            if id(tensor) not in self._known:
                leaf = self._leaves.setdefault(id(tensor), _Leaf(tensor, tensor.detach().clone()))
                leaf.look()
                leaves.append(leaf)
        answer = func(*args, **kwargs)
        for leaf in leaves:
            gradient = leaf.tensor.grad
            leaf.gradients += gradient is not None and bool(gradient.any())
        return answer

    def idle(self) -> list[tuple[int, ...]]:
        """Shapes of what was given a gradient more than once and never changed."""
        for leaf in self._leaves.values():
            leaf.look()
        # Once is no evidence: whoever makes a new tensor in each step never changes any.
        return [tuple(leaf.tensor.shape) for leaf in self._leaves.values() if leaf.gradients > 1 and not leaf.moved]


def _outside(images: Tensor) -> float:
    images = images.detach()
    return float(((images < -0.05) | (images > 1.05)).float().mean()) if images.numel() else 0.0


def _leaves(loss: Tensor) -> Iterator[Tensor]:
    """The leaves of the graph behind a loss that ask for a gradient."""
    seen, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        variable = getattr(node, "variable", None)
        if variable is not None:
            yield variable
        todo += [following for following, _ in node.next_functions]
