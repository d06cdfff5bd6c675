"""Sees to it that the student's weights are what the optimizer made of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dfkd_bench.stages.network import Network

__all__ = ["StudentWatch"]

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


class StudentWatch:
    """Knows the student's parameters as they were after the last step.

    BatchNorm statistics are not watched: a student in training mode moves them at every look.

    Args:
        student: the network that learns.
    """

    def __init__(self, student: Network) -> None:
        self._student = student
        self._parameters = dict(student.named_parameters())
        self.mark()

    def mark(self) -> None:
        """The optimizer has moved the weights."""
        self._seen = self._glance()

    def check(self, who: str) -> None:
        """A quick look, which costs some microseconds: torch counts what is written into a tensor.

        Raises:
            RuntimeError: the weights were changed since the last mark.
        """
        if self._glance() != self._seen:
            raise RuntimeError(f"the {who} changed the student's weights: only the optimizer may")

    @contextmanager
    def untouched(self, who: str) -> Iterator[None]:
        """Around a stage's turn: also looks at what the weights are, past torch's own counting.

        Raises:
            RuntimeError: they are others after the block, or belong to another network.
        """
        before = self._sums()
        yield
        self.check(who)
        now = dict(self._student.named_parameters())
        replaced = now.keys() != self._parameters.keys() or any(now[n] is not p for n, p in self._parameters.items())
        if replaced or self._sums() != before:
            raise RuntimeError(f"the {who} changed the student's weights: only the optimizer may")

    def _glance(self) -> list[tuple[int, int]]:
        return [(parameter._version, parameter.data_ptr()) for parameter in self._parameters.values()]

    def _sums(self) -> list[int]:
        """A sum of each parameter's bits: exact, and the same for what is not a number."""
        return _bits(list(self._parameters.values()))


@torch.no_grad()
def _bits(parameters: list[nn.Parameter]) -> list[int]:
    sums: list[Tensor] = [p.detach().view(_INTEGERS[p.element_size()]).sum(dtype=torch.int64) for p in parameters]
    found: list[int] = torch.stack(sums).tolist() if sums else []
    return found
