"""What code does with a device, seen from below: launches, bytes, waits for it and copies to it, by file and line."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["DeviceWatch", "Seen", "Step"]

aten = torch.ops.aten
Kind = Literal["wait", "upload", "download"]


@dataclass(frozen=True)
class Seen:
    """One kind of thing at one place.

    Attributes:
        kind: `wait` for the device, `download` from it (which waits, too), `upload` from pageable memory to it.
        what: the operation.
        where: file and line.
    """

    kind: Kind
    what: str
    where: str

    def __str__(self) -> str:
        return f"{self.where}: {self.kind} ({self.what})"


@dataclass
class Step:
    """One whole step.

    Attributes:
        kind: which loop it is a step of.
        launches: operations that start a kernel, one each.
        read_and_written: bytes of their inputs and outputs.
        seen: waits and copies.
    """

    kind: str
    launches: int = 0
    read_and_written: int = 0
    seen: collections.Counter[Seen] = field(default_factory=collections.Counter)


class DeviceWatch(TorchDispatchMode):
    """Sees every operation on fake tensors, and answers the ones whose answer only values could give.

    Every mask is true, every true number 0.5, every integer 1.

    Args:
        folders: a line is one of a file in these, the innermost that is on the stack.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        super().__init__()
        self.total = Step("all")
        self.steps: list[Step] = []
        self.operations: collections.Counter[str] = collections.Counter()
        self.half_convolutions = False
        self.phase: str | None = None
        self.generator_device: Callable[[Any], torch.device] = lambda generator: generator.device
        self._folders = tuple(f"{folder}/" for folder in folders)
        self._present: Step | None = None

    def enter_phase(self, phase: str | None) -> None:
        """Whatever step was going on is not one of the new phase."""
        self.phase, self._present = phase, None

    def step(self, kind: str) -> None:
        """A step ends here and the next begins: what comes after the last one of its kind counts for none."""
        if self._present is not None and self._present.kind == kind:
            self.steps.append(self._present)
        self._present = Step(kind)

    def went_back(self) -> None:
        """A backward pass is over. Outside the student's steps, whose end is told, each ends a step."""
        if self.phase in ("synthesis", "augmentation"):
            self.step(f"{self.phase}, learning")

    def note(self, kind: Kind, what: str) -> None:
        """Something is seen at the present line."""
        seen = Seen(kind, what, self._line())
        self.total.seen[seen] += 1
        if self._present is not None:
            self._present.seen[seen] += 1

    def _line(self) -> str:
        frame = sys._getframe(1)
        while frame.f_back is not None:
            name = frame.f_code.co_filename
            for folder in self._folders:
                if name.startswith(folder):
                    return f"{Path(folder).name}/{name.removeprefix(folder)}:{frame.f_lineno}"
            frame = frame.f_back
        return "elsewhere"

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        inputs = list(_tensors((args, kwargs.values())))
        self._check_generator(kwargs.get("generator"), inputs, kwargs)
        if func is aten._local_scalar_dense.default:
            return self._number(args[0], func, args)
        if not any(each.is_cuda for each in inputs) and "device" not in kwargs:
            answer = _ANSWERS.get(func)
            return answer(*args, **kwargs) if answer else func(*args, **kwargs)
        self._check_copies(func, args, inputs, kwargs)
        answer = _ANSWERS.get(func)
        output = answer(*args, **kwargs) if answer else func(*args, **kwargs)
        self._count(func, inputs, output)
        return output

    def _count(self, func: Any, inputs: list[Tensor], output: Any) -> None:
        outputs = [each for each in _tensors((output,)) if each.is_cuda]
        # Operations on lists write in place and answer nothing.
        writes = func._schema.is_mutable and any(each.is_cuda for each in inputs)
        if func.is_view or func in _NO_KERNEL or not (outputs or writes):
            return
        size = sum(each.numel() * each.element_size() for each in (*inputs, *outputs))
        self.operations[str(func)] += 1
        if func is aten.convolution.default:
            self.half_convolutions |= inputs[0].dtype == torch.bfloat16
        for step in (self.total, self._present):
            if step is not None:
                step.launches += 1
                step.read_and_written += size

    def _number(self, tensor: Tensor, func: Any, args: tuple[Any, ...]) -> Any:
        if tensor.is_cuda:
            self.note("wait", "one number")
        elif getattr(tensor, "constant", None) is not None:
            return func(*args)
        if tensor.dtype == torch.bool:
            return True
        return 0.5 if tensor.dtype.is_floating_point else 1

    def _check_copies(self, func: Any, args: tuple[Any, ...], inputs: list[Tensor], kwargs: dict[str, Any]) -> None:
        name = func._schema.name
        if func in _WAITS:
            self.note("wait", name)
        elif func in (aten._to_copy.default, aten.copy_.default):
            source = args[1] if func is aten.copy_.default else args[0]
            to = args[0].device if func is aten.copy_.default else kwargs.get("device") or source.device
            if source.is_cuda and to.type == "cpu":
                self.note("download", name)
            # A number is an argument of the kernel that fills with it.
            elif source.device.type == "cpu" and to.type == "cuda" and not (source.ndim == 0 and name == "aten::copy_"):
                self.note("upload", name)
        elif func in _INDEXED:
            for index in args[1]:
                if index is None:
                    continue
                if index.device != args[0].device and index.is_cuda:
                    raise RuntimeError("indices should be either on cpu or on the same device as the indexed tensor")
                if args[0].is_cuda and index.device.type == "cpu":
                    self.note("upload", "index from the host")
                if index.is_cuda and index.dtype in (torch.bool, torch.uint8):
                    self.note("wait", "index by a mask")

    def _check_generator(self, generator: Any, inputs: list[Tensor], kwargs: dict[str, Any]) -> None:
        if generator is None:
            return
        device = inputs[0].device if inputs else kwargs.get("device") or torch.device("cpu")
        drawn = self.generator_device(generator)
        if drawn.type != device.type:
            raise RuntimeError(f"Expected a '{device.type}' device type for generator but found '{drawn.type}'")


def _tensors(items: Iterable[Any]) -> Iterator[Tensor]:
    for item in items:
        if isinstance(item, Tensor):
            yield item
        elif isinstance(item, list | tuple) or type(item) is type({}.values()):
            yield from _tensors(item)


def _unmasked(index: Any) -> list[Tensor | None]:
    """Index tensors in place of masks, which are true everywhere."""
    found: list[Tensor | None] = []
    for each in index:
        if each is not None and each.dtype in (torch.bool, torch.uint8):
            found += [torch.empty(each.numel(), dtype=torch.int64, device=each.device) for _ in range(each.ndim)]
        else:
            found.append(each)
    return found


def _index(tensor: Tensor, index: Any) -> Any:
    return aten.index.Tensor(tensor, _unmasked(index))


def _index_put_(tensor: Tensor, index: Any, *more: Any) -> Any:
    return aten.index_put_.default(tensor, _unmasked(index), *more)


def _nonzero(tensor: Tensor) -> Tensor:
    return torch.empty(tensor.numel(), tensor.ndim, dtype=torch.int64, device=tensor.device)


def _masked_select(tensor: Tensor, mask: Tensor) -> Tensor:
    return tensor.new_empty(tensor.numel())


def _bincount(tensor: Tensor, weights: Tensor | None = None, minlength: int = 0) -> Tensor:
    # Every integer is 1.
    return torch.empty(max(minlength, 2), dtype=torch.int64, device=tensor.device)


def _update_stats(inputs: Tensor, mean: Tensor | None, variance: Tensor | None, momentum: float) -> Any:
    dtype = torch.promote_types(inputs.dtype, torch.float32) if mean is None else mean.dtype
    return tuple(torch.empty(inputs.shape[1], dtype=dtype, device=inputs.device) for _ in range(2))


def _sampled(images: Tensor, grid: Tensor) -> Tensor:
    _check_same_device(images, grid)
    return images.new_empty((*images.shape[:2], *grid.shape[1:3]))


def _sampled_back(images: Tensor, grid: Tensor, slope: Tensor) -> Any:
    _check_same_device(images, grid, slope)
    return torch.empty_like(images), torch.empty_like(grid)


def _fused_sgd(weights: list[Tensor], gradients: list[Tensor], buffers: list[Tensor], **_: Any) -> None:
    for group in zip(weights, gradients, *([buffers] if buffers else []), strict=True):
        _check_same_device(*group)


def _check_same_device(*tensors: Tensor) -> None:
    if len({each.device for each in tensors}) > 1:
        raise RuntimeError("Expected all tensors to be on the same device")


_INDEXED = (aten.index.Tensor, aten.index_put_.default)
#: What fake tensors cannot answer: either it depends on values, or they know no shapes for a kernel of CUDA's.
_ANSWERS: dict[Any, Callable[..., Any]] = {
    aten.index.Tensor: _index,
    aten.index_put_.default: _index_put_,
    aten.nonzero.default: _nonzero,
    aten.masked_select.default: _masked_select,
    aten.bincount.default: _bincount,
    aten.equal.default: lambda one, other: True,
    aten.batch_norm_update_stats.default: _update_stats,
    aten._fused_sgd_.default: _fused_sgd,
    aten._fused_sgd_.tensor_lr: _fused_sgd,
    aten.cudnn_grid_sampler.default: _sampled,
    aten.cudnn_grid_sampler_backward.default: _sampled_back,
}
_WAITS = (
    aten.nonzero.default,
    aten.masked_select.default,
    aten.equal.default,
    aten.repeat_interleave.Tensor,
    aten._unique2.default,
    aten.bincount.default,
)
_NO_KERNEL = (
    aten.empty.memory_format,
    aten.empty_like.default,
    aten.empty_strided.default,
    aten.new_empty.default,
    aten.new_empty_strided.default,
    aten.detach.default,
    aten.lift_fresh.default,
    aten._unsafe_view.default,
    aten.resize_.default,
    aten.set_.source_Tensor,
)
