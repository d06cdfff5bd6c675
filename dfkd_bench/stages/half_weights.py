"""Frozen weights in half precision, cast once and not at every pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HalfWeights"]


class HalfWeights:
    """The weights that autocast would cast at every pass, cast once for as long as they are frozen and stay the same.

    Args:
        body: whose convolutions and linear layers it is about.
    """

    def __init__(self, body: nn.Module) -> None:
        # These alone: what a class of a stranger's does with its weight may want all its digits.
        kinds = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)
        self._places: list[tuple[dict[str, Any], str]] = [
            (module._parameters, name)
            for module in body.modules()
            if type(module) in kinds
            for name, parameter in module._parameters.items()
            if parameter is not None
        ]
        self._cast: dict[int, tuple[Tensor, int, Tensor]] = {}
        self._outdated = set[int]()

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The frozen ones stand in the layers in half precision."""
        taken: list[tuple[dict[str, Any], str, Tensor]] = []
        try:
            for index, (parameters, name) in enumerate(self._places):
                parameter = parameters[name]
                if parameter is None or parameter.dtype != torch.float32:
                    continue
                if parameter.requires_grad:
                    # It learns: fused optimizers write to it without torch counting that.
                    self._outdated.add(index)
                    continue
                taken.append((parameters, name, parameter))
                parameters[name] = self._half(index, parameter)
            yield
        finally:
            for parameters, name, parameter in taken:
                parameters[name] = parameter

    def _half(self, index: int, parameter: Tensor) -> Any:
        source, version, half = self._cast.get(index, (None, 0, None))
        if source is not parameter or half is None or half.device != parameter.device:
            # A tensor of inference mode could not be used outside it.
            with torch.inference_mode(False):
                half = parameter.detach().to(torch.bfloat16)
        elif version != parameter._version or index in self._outdated:
            # In its place, from which a captured step reads.
            half.copy_(parameter.detach())
        self._outdated.discard(index)
        self._cast[index] = (parameter, parameter._version, half)
        return half

    def refresh(self) -> None:
        """Cast anew what has changed since the last pass, for steps that continue without one."""
        for index, (parameter, _, _) in self._cast.items():
            self._half(index, parameter)
