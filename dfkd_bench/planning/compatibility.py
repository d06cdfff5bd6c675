"""Whether a run's networks and stages offer what its stages require. Imports no torch by itself."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, Any

from dfkd_bench.errors import DfkdError
from dfkd_bench.hooks.registry import STAGE_KINDS, joined_names
from dfkd_bench.method import Method
from dfkd_bench.models.build import build_model
from dfkd_bench.stages.requirements import NEEDS, NetworkFacts

if TYPE_CHECKING:
    from torch import nn

    from dfkd_bench.card import DatasetCard
    from dfkd_bench.hooks.registry import Registry
    from dfkd_bench.spec import RunSpec

__all__ = ["network_facts", "unmet", "warnings", "without_effect"]


def unmet(spec: RunSpec, card: DatasetCard, registry: Registry) -> Iterator[DfkdError]:
    """What a spec's stages require and nobody there offers, as sentences."""
    for kind in STAGE_KINDS:
        choice = getattr(spec, kind)
        stage = registry.load(kind, choice.name)
        options = stage.Options.model_validate(choice.options)
        networks = (network_facts(name, card, registry) for name in (spec.pair.teacher, spec.pair.student))
        if (reason := stage.unmet(options, *networks, card)) is not None:
            yield DfkdError(f"{spec.method} cannot run: its {kind} '{choice.name}' {reason}")
        for name in sorted(stage.requires_with(options)):
            need = NEEDS[name]
            for part in need.of:
                lacking, offered = _offers(spec, part, card, registry)
                if need.offer not in offered:
                    other = "synthesizer" if part == "synthesizer" else "network"
                    yield DfkdError(
                        f"{spec.method} cannot run on {spec.pair}: its {kind} '{choice.name}' needs {need.what}, and "
                        f"{lacking} has none; choose another {other}, or a method that does without"
                    )
                    break


def without_effect(spec: RunSpec, chosen: Collection[str], registry: Registry) -> Iterator[DfkdError]:
    """Which of a spec's stages nothing would ever reach, as sentences: a record would name them all the same.

    Args:
        spec: the run.
        chosen: the kinds of stages that the user named. A recipe's own filter may stay beside the augmenter `none`:
            that is the recipe without its augmentation.
        registry: who provides the synthesizer.
    """
    none, every = (Method.model_fields[kind].default.name for kind in ("augmenter", "filter"))
    # Of filters that are joined each must have something to judge.
    idle = [
        name for name in joined_names("filter", spec.filter.name) if not registry.load("filter", name).judges_batches()
    ]
    idle = [name for name in idle if name != every]
    if registry.load("synthesizer", spec.synthesizer.name).stream:
        for kind, names, plain in (("augmenter", [spec.augmenter.name], none), ("filter", idle, every)):
            for name in names:
                if name != plain:
                    yield DfkdError(
                        f"{spec.method} cannot use the {kind} '{name}': its synthesizer '{spec.synthesizer.name}' "
                        f"makes fresh images for every step and keeps none; choose --{kind} {plain}, or another "
                        "synthesizer"
                    )
    elif "filter" in chosen and spec.augmenter.name == none:
        for name in idle:
            yield DfkdError(
                f"{spec.method} cannot use the filter '{name}': it judges augmented images, and the augmenter "
                f"'{none}' makes none; choose an augmenter, or --filter {every}"
            )


def warnings(spec: RunSpec, card: DatasetCard, registry: Registry) -> Iterator[str]:
    """What a spec's stages want to be known before the run, as sentences."""
    for kind in STAGE_KINDS:
        choice = getattr(spec, kind)
        stage = registry.load(kind, choice.name)
        options = stage.Options.model_validate(choice.options)
        reason = stage.warn_with(options, network_facts(spec.pair.teacher, card, registry), card)
        if reason is not None:
            yield f"{spec.method} with the teacher {spec.pair.teacher}: {reason}"


def _offers(spec: RunSpec, part: str, card: DatasetCard, registry: Registry) -> tuple[str, frozenset[str]]:
    """Who it is, and what it offers."""
    if part == "synthesizer":
        given = registry.load("synthesizer", spec.synthesizer.name).gives_targets
        return f"the synthesizer '{spec.synthesizer.name}'", frozenset({"targets"} if given else ())
    network: str = getattr(spec.pair, part)
    facts = network_facts(network, card, registry)
    offered = {
        "batchnorm": bool(facts.batchnorm),
        "stages": facts.stage_inputs is not None,
        "attention": facts.attention > 0,
    }
    return network, frozenset(name for name, has in offered.items() if has)


# Building a network takes up to a fifth of a second: a grid asks for each once.
@functools.lru_cache(maxsize=1024)
def network_facts(name: str, card: DatasetCard, registry: Registry) -> NetworkFacts:
    """What is known of a network for a dataset.

    Raises:
        DfkdError: it is unknown, or cannot take the dataset's images.
    """
    import torch

    try:
        with torch.device("meta"):  # shapes alone: no weights are drawn, nothing is computed
            return _facts(name, card, registry)
    except Exception:  # not every network can do without numbers; and what refuses is reported as in a run
        return _facts(name, card, registry)


def _facts(name: str, card: DatasetCard, registry: Registry) -> NetworkFacts:
    from torch import nn

    from dfkd_bench.stages.network import attention_names

    body = build_model(name, card, registry)
    batchnorm = tuple(module.num_features for module in body.modules() if isinstance(module, nn.BatchNorm2d))
    stages = getattr(body, "stages", None)
    inputs = _stage_inputs(body, stages, card) if isinstance(stages, tuple) else None
    return NetworkFacts(batchnorm, inputs, len(attention_names(body)))


def _stage_inputs(body: nn.Module, stages: tuple[str, ...], card: DatasetCard) -> tuple[int, ...]:
    """Found by looking: a stage's module does not say how many channels it takes."""
    import torch

    channels: dict[str, int] = {}
    for name, module in body.named_modules():
        if name in stages:
            module.register_forward_pre_hook(_note_channels(channels, name))
    with torch.no_grad():
        body.eval()(torch.zeros(1, *card.image_shape))
    return tuple(channels[name] for name in stages if name in channels)


def _note_channels(channels: dict[str, int], name: str) -> Callable[[nn.Module, Any], None]:
    def hook(_: nn.Module, inputs: Any) -> None:
        channels[name] = inputs[0].shape[1]

    return hook
