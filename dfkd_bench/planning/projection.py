"""What runs will compute, from their schedules and counted passes, before they run. Imports no torch by itself."""

from __future__ import annotations

import functools
import math
from dataclasses import replace
from typing import TYPE_CHECKING

from dfkd_bench.hooks.registry import STAGE_KINDS, StageKind
from dfkd_bench.models.build import build_model

if TYPE_CHECKING:
    from dfkd_bench.card import DatasetCard
    from dfkd_bench.hooks.registry import Registry
    from dfkd_bench.spec import RunSpec
    from dfkd_bench.stages.passes import Passes, Projection, Workload

__all__ = ["PHASES", "in_flops", "project", "sentence"]

#: Of the cost ledger, each one stage's; evaluation is no method's cost.
PHASES = ("synthesis", "augmentation", "filtering", "distillation")


def project(spec: RunSpec, card: DatasetCard, registry: Registry) -> dict[str, int | None]:
    """FLOPs of each phase by name; None where a stage offers no projection."""
    flops: dict[str, int | None] = {}
    for phase, found in zip(PHASES, _Run(spec, card, registry).projections(), strict=True):
        flops[phase] = None if found is None else sum(_flops(p, spec, card, registry) for p in found.passes)
    return flops


def sentence(flops: dict[str, int | None]) -> str:
    """For people: `synthesis 1.2 TFLOP, augmentation not projected, ...; 3.4 TFLOP in all`."""
    parts = [f"{phase} {'not projected' if each is None else in_flops(each)}" for phase, each in flops.items()]
    known = [each for each in flops.values() if each is not None]
    total = f"; {in_flops(sum(known))} in all" if len(known) == len(flops) else ""
    return ", ".join(parts) + total


def in_flops(count: int) -> str:
    """A number of operations with its unit: `9.56 EFLOP`."""
    if count == 0:
        return "0"
    power = max(0, min(int(math.log10(count)) // 3, 6))
    return f"{count / 1000**power:.3g} {('', 'k', 'M', 'G', 'T', 'P', 'E')[power]}FLOP"


class _Run:
    """The projections of a spec's stages: what one makes is what the next is given."""

    def __init__(self, spec: RunSpec, card: DatasetCard, registry: Registry) -> None:
        self._schedule = spec.schedule
        self._card = card
        self._stages = {kind: registry.load(kind, getattr(spec, kind).name) for kind in STAGE_KINDS}
        self._options = {
            kind: stage.Options.model_validate(getattr(spec, kind).options) for kind, stage in self._stages.items()
        }

    def projections(self) -> list[Projection | None]:
        """In the order of `PHASES`."""
        from dfkd_bench.stages.base import Synthesizer
        from dfkd_bench.stages.passes import Projection, Workload

        schedule, synthesizer = self._schedule, self._stages["synthesizer"]
        steps = schedule.epochs * schedule.steps_per_epoch
        load = Workload(
            self._card,
            warmup_rounds=schedule.warmup_rounds,
            main_rounds=schedule.epochs * schedule.rounds_per_epoch,
            student_images=steps * schedule.batch_size,
        )
        distillation = self._ask("distiller", load)
        if synthesizer.after_distill_step is not Synthesizer.after_distill_step:
            distillation = None  # what it does after each step is booked there, too
        if synthesizer.stream:
            synthesis = self._ask("synthesizer", replace(load, sampled=load.student_images))
            return [synthesis, Projection(), Projection(), distillation]
        made, synthesis = self._synthesis(load)
        augmentation = self._ask("augmenter", replace(load, sources=1 if made is None else made))
        if made is None and augmentation != Projection():
            augmentation = None  # nobody knows of how many images
        filtering = None
        if augmentation == Projection():
            filtering = Projection()
        elif augmentation is not None and made is not None:
            filtering = self._ask("filter", replace(load, sources=made, variants=augmentation.images))
        return [synthesis, augmentation, filtering, distillation]

    def _synthesis(self, load: Workload) -> tuple[int | None, Projection | None]:
        """How many images will be augmented, and the projection of all rounds."""
        schedule = self._schedule
        wanted = schedule.initial_images
        one = self._ask("synthesizer", replace(load, warmup_rounds=1, main_rounds=0))
        if one is None or not one.images:
            return None, None
        if wanted is not None:
            load = replace(load, warmup_rounds=math.ceil(wanted / one.images))
        whole = self._ask("synthesizer", load)
        if whole is None:
            return None, None
        first = load.warmup_rounds * one.images
        kept = min(each for each in (first, wanted, schedule.bank_capacity) if each is not None)
        return whole.images - first + kept, whole

    def _ask(self, kind: StageKind, load: Workload) -> Projection | None:
        projection: Projection | None = self._stages[kind].projection(self._options[kind], load)
        return projection


def _flops(passes: Passes, spec: RunSpec, card: DatasetCard, registry: Registry) -> int:
    count = passes.forward + passes.backward * (2 if passes.trained else 1)
    if not count:
        return 0
    if passes.flops is not None:
        return count * passes.flops()
    return count * _player_flops(getattr(spec.pair, passes.network), card, registry)


# Building a network takes up to a fifth of a second: a grid asks for each once.
@functools.lru_cache(maxsize=1024)
def _player_flops(name: str, card: DatasetCard, registry: Registry) -> int:
    from dfkd_bench.stages.passes import flops_per_image

    body = build_model(name, card, registry)  # its check computes with it: outside, where tensors are real
    return flops_per_image(lambda: body, (1, *card.image_shape))
