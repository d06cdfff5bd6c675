"""A teacher or a student as the methods see it: images in [0, 1] go in, float32 logits and features come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dfkd_bench.errors import DfkdError
from dfkd_bench.stages.compiled import Compiled
from dfkd_bench.stages.half_weights import HalfWeights

__all__ = ["Network", "Normalization", "Observation", "Precision", "attention_names", "autocast", "frozen"]

Precision = torch.dtype


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Mixed precision on `device`: bf16 where `precision` says so, else no effect."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == torch.bfloat16)


@dataclass
class Observation:
    """One forward pass.

    Attributes:
        logits: float32 [N, K].
        features: float32 [N, F], the input of the last linear layer (penultimate, pooled).
        batchnorm: each BatchNorm2d layer with its input [N, C, H, W], in the order in which they ran.
        maps: outputs of the modules that were asked for, by name, float32.
        inputs: inputs of the modules that were asked for, by name, float32.

    The logits depend on features, maps and inputs, in every precision: their gradients with respect to them are there.
    """

    logits: Tensor
    features: Tensor
    batchnorm: list[tuple[nn.BatchNorm2d, Tensor]] = field(default_factory=list)
    maps: dict[str, Tensor] = field(default_factory=dict)
    inputs: dict[str, Tensor] = field(default_factory=dict)


class Normalization(Protocol):
    """What says how images are normalized: per channel, in [0, 1]."""

    @property
    def mean(self) -> tuple[float, ...]:
        """Means."""

    @property
    def std(self) -> tuple[float, ...]:
        """Standard deviations."""


class Network(nn.Module):
    """Any classifier behind one door: normalization, precision and hooks are its business, never a stage's.

    Args:
        body: any nn.Module with normalized images [N, C, H, W] -> logits [N, K]; it is not changed.
        card: whose mean and standard deviation normalize the images: the dataset's card, or the teacher's own.
        precision: `torch.bfloat16` runs the body under autocast; outputs are float32 in any case.

    Raises:
        DfkdError: the body has no nn.Linear, whose input would be the features.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, card: Normalization, precision: Precision = torch.float32) -> None:
        super().__init__()
        self.body = body
        self.precision = precision
        linear = [module for module in body.modules() if isinstance(module, nn.Linear)]
        if not linear:
            raise DfkdError(f"{type(body).__name__} has no linear layer at its end, so it has no penultimate features")
        # In a list, so that it does not become a second entry in the state.
        self._classifier = [linear[-1]]
        self.register_buffer("mean", torch.tensor(card.mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(card.std).view(1, -1, 1, 1), persistent=False)
        self._halves = HalfWeights(body)
        self._compiled: Compiled | None = None

    def placed(self, device: torch.device) -> Network:
        """Itself, moved to `device` and laid out channels-last, in which convolutions are fastest."""
        return self.to(device).to(memory_format=torch.channels_last)

    def compile_passes(self, backend: str | Callable[..., Any] = "inductor") -> None:
        """From now on run passes that nobody looks into through `torch.compile`; see `Compiled`. The state is the same.

        They cannot be differentiated twice.
        """
        self._compiled = Compiled(self.body, backend)

    @property
    def classifier(self) -> nn.Linear:
        """The body's last linear layer."""
        return self._classifier[0]

    @property
    def num_classes(self) -> int:
        """Length of the logits."""
        return self.classifier.out_features

    @property
    def feature_dim(self) -> int:
        """Length of the penultimate features."""
        return self.classifier.in_features

    @property
    def batchnorm_layers(self) -> list[nn.BatchNorm2d]:
        """The body's BatchNorm2d layers in the order in which they were defined."""
        return [module for module in self.body.modules() if isinstance(module, nn.BatchNorm2d)]

    @property
    def stage_names(self) -> tuple[str, ...]:
        """Names of the modules whose outputs are the spatial maps of the stages; empty if the body names none."""
        return tuple(getattr(self.body, "stages", ())) if isinstance(getattr(self.body, "stages", ()), tuple) else ()

    def normalize(self, images: Tensor) -> Tensor:
        """Images in [0, 1] as the body takes them."""
        normalized = (images - self.mean) / self.std
        return normalized.contiguous(memory_format=torch.channels_last)

    def forward(self, images: Tensor) -> Tensor:
        """Logits, float32 [N, K], of images [N, C, H, W] in [0, 1]."""
        half = self._halves.inside() if self.precision == torch.bfloat16 else nullcontext()
        maybe_compiled = nullcontext() if self._compiled is None else self._compiled.inside(self.body)
        with autocast(images.device, self.precision), half, maybe_compiled:
            logits: Tensor = self.body(self.normalize(images))
        return logits.float()

    def refresh(self) -> None:
        """See to it that what is kept of the weights in half precision is that of the weights as they are now."""
        self._halves.refresh()

    def observe(
        self, images: Tensor, *, batchnorm: bool = False, maps: Sequence[str] = (), inputs: Sequence[str] = ()
    ) -> Observation:
        """A forward pass with the features, and on demand the BatchNorm inputs and named modules' outputs or inputs.

        Raises:
            DfkdError: the body has no module of such a name.
        """
        seen = Observation(logits=images, features=images)

        def on_classifier(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            seen.features, onward = _on_the_path(inputs[0])
            return (onward, *inputs[1:])

        def on_batchnorm(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, nn.BatchNorm2d)
            seen.batchnorm.append((layer, inputs[0]))

        handles: list[RemovableHandle] = [self.classifier.register_forward_pre_hook(on_classifier)]
        try:
            if batchnorm:
                handles += [layer.register_forward_pre_hook(on_batchnorm) for layer in self.batchnorm_layers]
            for name in maps:
                handles.append(self._module(name).register_forward_hook(_keep_output(seen.maps, name)))
            for name in inputs:
                handles.append(self._module(name).register_forward_pre_hook(_keep_input(seen.inputs, name)))
            seen.logits = self(images)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def _module(self, name: str) -> nn.Module:
        try:
            return self.body.get_submodule(name)
        except AttributeError as error:
            raise DfkdError(f"{type(self.body).__name__} has no module '{name}'") from error


def _keep_output(kept: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
    def hook(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        kept[name], onward = _on_the_path(output)
        return onward

    return hook


def _keep_input(kept: dict[str, Tensor], name: str) -> Callable[[nn.Module, Any], tuple[Any, ...]]:
    def hook(_: nn.Module, inputs: Any) -> tuple[Any, ...]:
        kept[name], onward = _on_the_path(inputs[0])
        return (onward, *inputs[1:])

    return hook


def _on_the_path(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """What is kept, in float32, and what the network continues with: made from it, so that the logits depend on it.

    From half precision to single and back is exact: the logits are the same to the last digit.
    """
    kept = tensor.float()
    return kept, kept.to(tensor.dtype)


def attention_names(body: nn.Module) -> tuple[str, ...]:
    """The attention modules of a transformer as timm builds them: those with `num_heads`, `qkv` and `proj`."""
    wanted = ("num_heads", "qkv", "proj")
    return tuple(name for name, module in body.named_modules() if all(hasattr(module, part) for part in wanted))


@contextmanager
def frozen(network: nn.Module) -> Iterator[None]:
    """Evaluation mode and no gradients to the weights inside; both as they were afterwards."""
    # Some stages come here at every step of the student: one walk, and past nn.Module's slow way to set a flag.
    modes = [(module, module.training) for module in network.modules()]
    wants = [
        (each, each.requires_grad) for module, _ in modes for each in module._parameters.values() if each is not None
    ]
    _set([(module, False) for module, _ in modes], [(parameter, False) for parameter, _ in wants])
    try:
        yield
    finally:
        _set(modes, wants)


def _set(modes: list[tuple[nn.Module, bool]], wants: list[tuple[nn.Parameter, bool]]) -> None:
    for module, mode in modes:
        module.__dict__["training"] = mode
    for parameter, want in wants:
        if parameter.requires_grad != want:
            parameter.requires_grad_(want)
