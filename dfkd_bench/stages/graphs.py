"""Steps as CUDA graphs: launched as one after they were captured, where a run asks for it.

A captured step does again what it did, with the tensors that it did it with: whatever a round refills must stay in its
place, and whatever Python decides in a step must be part of its key. No GPU has run this yet.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterable
from typing import Any, Generic, Protocol, TypeVar

import torch

from dfkd_bench.errors import first_line
from dfkd_bench.stages.ledger import CostLedger, PhaseCost

__all__ = ["Capturer", "CudaCapturer", "Graphs"]

T = TypeVar("T")

#: Calls before the capture: kernels are chosen, optimizers make their state, and the ledger learns what a call costs.
WARM_UP = 3
#: Captured keys of one function that are kept; each holds the memory of a whole step.
KEPT = 2


class Capturer(Protocol):
    """What captures a step."""

    def warm_up(self, function: Callable[[], T]) -> T:
        """Call it as it will be captured."""

    def capture(self, function: Callable[[], T]) -> Callable[[], T]:
        """What does again all that a call would do. Nothing is done yet.

        Raises:
            RuntimeError: it cannot be captured.
        """


class CudaCapturer:
    """By `torch.cuda.CUDAGraph`, on a stream of its own.

    Args:
        generators: every random stream that a step may draw from; each moves forward from replay to replay.
    """

    def __init__(self, generators: Iterable[torch.Generator]) -> None:
        self._generators = list(generators)
        self._stream: torch.cuda.Stream | None = None

    def warm_up(self, function: Callable[[], T]) -> T:
        """On the stream of the capture, which the backward pass then keeps to."""
        stream, present = self._own_stream(), torch.cuda.current_stream()
        stream.wait_stream(present)
        with torch.cuda.stream(stream):
            output = function()
        present.wait_stream(stream)
        return output

    def capture(self, function: Callable[[], T]) -> Callable[[], T]:
        """A graph with memory of its own."""
        graph = torch.cuda.CUDAGraph()
        for generator in self._generators:
            graph.register_generator_state(generator)
        with torch.cuda.graph(graph, stream=self._own_stream()):
            output = function()

        def replay() -> T:
            graph.replay()
            return output

        return replay

    def _own_stream(self) -> torch.cuda.Stream:
        self._stream = self._stream or torch.cuda.Stream()
        return self._stream


class Graphs:
    """A run's captured steps.

    Args:
        ledger: of the run; a replay costs what the call before the capture did.
        capturer: what captures; None where steps are called as they are.
        remark: receives a sentence on why the run continues without graphs.
    """

    def __init__(
        self, ledger: CostLedger, capturer: Capturer | None = None, remark: Callable[[str], None] = lambda _: None
    ) -> None:
        self.ledger, self.capturer, self._remark = ledger, capturer, remark
        self._steps = dict[tuple[Callable[[], Any], Hashable], _Step[Any]]()

    def step(self, function: Callable[[], T], key: Hashable) -> Callable[[], T]:
        """See `StageContext.step`."""
        if self.capturer is None:
            return function
        # A method of the same object is equal to itself; a function that is made anew in each round is another one.
        name = (function, key)
        found = self._steps.pop(name, None) or _Step(function, self)
        others = [other for other in self._steps if other[0] == name[0]]
        for other in others[: len(others) + 1 - KEPT]:
            del self._steps[other]
        self._steps[name] = found
        return found

    def forget(self) -> None:
        """State was loaded, whose tensors are others: every step is captured anew."""
        self._steps.clear()

    def give_up(self, error: RuntimeError) -> None:
        """From now on all steps are called as they are."""
        self.capturer = None
        self._steps.clear()
        why = f"a step could not be captured as a CUDA graph ({first_line(error)}): it continued without graphs"
        self._remark(why)
        warnings.warn(why, stacklevel=2)


class _Step(Generic[T]):
    def __init__(self, function: Callable[[], T], graphs: Graphs) -> None:
        self._function, self._graphs = function, graphs
        self._calls, self._cost = 0, PhaseCost()
        self._replay: Callable[[], T] | None = None

    def __call__(self) -> T:
        capturer, ledger = self._graphs.capturer, self._graphs.ledger
        if capturer is None:
            return self._function()
        if self._calls < WARM_UP:
            self._calls += 1
            with ledger.counted() as self._cost:
                return capturer.warm_up(self._function)
        if self._replay is None:
            try:
                with ledger.unbooked():
                    self._replay = capturer.capture(self._function)
            except RuntimeError as error:
                self._graphs.give_up(error)
                return self._function()
        with ledger.unbooked():
            output = self._replay()
        ledger.repeat(self._cost)
        return output
