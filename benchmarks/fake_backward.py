"""The way back through autograd's graph, node by node in Python: its engine wants a driver, the nodes do not."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Hook", "Hooks", "walk_back"]

Hook = Callable[[Tensor], Tensor | None]


@dataclass(frozen=True)
class Handle:
    """Takes a hook away again."""

    kept: dict[tuple[Any, int], list[Hook]]
    key: tuple[Any, int]
    hook: Hook

    def remove(self) -> None:
        """If it is still there."""
        if self.hook in self.kept.get(self.key, ()):
            self.kept[self.key].remove(self.hook)


class Hooks:
    """The hooks of tensors, by the node that made each: called without the engine, a node calls none."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, int], list[Hook]] = {}

    def register(self, tensor: Tensor, hook: Hook) -> Handle:
        """`Tensor.register_hook`."""
        key = (_node(tensor), tensor.output_nr)
        self._kept.setdefault(key, []).append(hook)
        return Handle(self._kept, key, hook)

    def call(self, node: Any, index: int, gradient: Tensor) -> Tensor:
        """The gradient after the hooks of a node's output, which have had their turn then."""
        for hook in self._kept.pop((node, index), ()):
            answer = hook(gradient)
            gradient = gradient if answer is None else answer
        return gradient


def walk_back(root: Tensor, gradient: Tensor, hooks: Hooks) -> None:
    """Add the gradients of `root` to the leaves' `grad`.

    Raises:
        RuntimeError: a gradient is on another device than what it is the gradient of, or `root` has no graph.
    """
    if root.grad_fn is None:
        raise RuntimeError("element 0 of tensors does not require grad and does not have a grad_fn")
    waiting = _dependencies(root.grad_fn)
    gradients: dict[Any, dict[int, Tensor]] = {root.grad_fn: {root.output_nr: gradient}}
    # The engine's order: of the nodes that nothing waits for, the one that was made last.
    ready: list[tuple[int, int, Any]] = [(0, 0, root.grad_fn)]
    while ready:
        node = heapq.heappop(ready)[2]
        given = gradients.pop(node, {})
        answers = _call(node, {index: hooks.call(node, index, each) for index, each in given.items()}) if given else ()
        for place, (following, index) in enumerate(node.next_functions):
            if following is None:
                continue
            if place < len(answers) and answers[place] is not None:
                found, slope = gradients.setdefault(following, {}), _fitted(following, index, answers[place])
                found[index] = found[index] + slope if index in found else slope
            waiting[following] -= 1
            if not waiting[following]:
                heapq.heappush(ready, (-following._sequence_nr(), id(following), following))


def _node(tensor: Tensor) -> Any:
    if tensor.grad_fn is not None:
        return tensor.grad_fn
    with torch.enable_grad():  # a leaf's is what stands behind anything that is made of it
        return tensor.view_as(tensor).grad_fn.next_functions[0][0]  # type: ignore[union-attr]


def _dependencies(root: Any) -> dict[Any, int]:
    """How many nodes stand before each. The keys keep the nodes' Python objects, by which they are known."""
    found, todo = {root: 0}, [root]
    while todo:
        for following, _ in todo.pop().next_functions:
            if following is None:
                continue
            if following not in found:
                found[following] = 0
                todo.append(following)
            found[following] += 1
    return found


def _fitted(node: Any, index: int, gradient: Tensor) -> Tensor:
    """As the engine validates it: the same device, and the shape and type of what it is the gradient of."""
    wanted = node._input_metadata[index]
    if gradient.device != wanted.device:
        raise RuntimeError(f"{node.name()}: expected a gradient on {wanted.device}, got one on {gradient.device}")
    if gradient.shape != torch.Size(wanted.shape):
        gradient = gradient.sum_to_size(wanted.shape)
    return gradient if gradient.dtype == wanted.dtype else gradient.to(wanted.dtype)


def _call(node: Any, given: dict[int, Tensor]) -> tuple[Tensor | None, ...]:
    if hasattr(node, "variable"):
        leaf = node.variable
        leaf.grad = given[0].detach() if leaf.grad is None else leaf.grad + given[0]
        return ()
    metadata = node._input_metadata
    gradients: list[Tensor | None] = [given.get(index) for index in range(len(metadata))]
    if hasattr(node, "materialize_grads") and node.materialize_grads:  # a Function of Python's
        for index, wanted in enumerate(metadata):
            if gradients[index] is None:
                gradients[index] = torch.zeros(wanted.shape, dtype=wanted.dtype, device=wanted.device)
    answers = node.apply(*gradients) if hasattr(node, "_forward_cls") else node(*gradients)
    return answers if isinstance(answers, tuple) else (answers,)
