"""The checks of behavior of augmenters and filters: sources are true, and the near variants stay."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

from dfkd_bench.contract.breach import Breach, Skip
from dfkd_bench.contract.episode import kept, make, selected
from dfkd_bench.contract.subject import Subject
from dfkd_bench.contract.world import World
from dfkd_bench.errors import DfkdError
from dfkd_bench.stages.bank import SyntheticBatch
from dfkd_bench.stages.base import Augmenter, Filter
from dfkd_bench.stages.network import frozen
from dfkd_bench.stages.options import StageOptions

__all__ = ["AUGMENTING", "FILTERING"]


def sources_are_true(subject: Subject) -> str:
    """An image changes with the one that it names as its source, and has its target."""
    for options in subject.settings:
        with tempfile.TemporaryDirectory(prefix="dfkd-contract-") as folder:
            world = subject.world(folder)
            batch = world.batch("one")
            plain = _augmented(subject, options, world, batch)
            if not len(plain):
                raise Skip("it makes no images")
            assert plain.source is not None
            which = subject.differing(options)
            if not torch.equal(plain.targets, batch.targets[plain.source]):
                raise Breach(f"{which}its images do not have the targets of the sources that they name")
            for index in sorted({int(plain.source[0]), int(plain.source[len(plain) // 2]), int(plain.source[-1])}):
                images = batch.images.clone()
                images[index] = 1 - images[index]
                other = _augmented(subject, options, world, SyntheticBatch(images, batch.targets))
                _follows(which, plain, other, index)
    return ""


def _follows(which: str, plain: SyntheticBatch, other: SyntheticBatch, index: int) -> None:
    if len(plain) != len(other):
        return
    differs = (plain.images - other.images).flatten(1).abs().amax(dim=1) > 1e-6
    assert plain.source is not None
    named = plain.source.eq(index)
    # Half: a crop, or another image laid over it, may hide what has changed.
    if bool(differs.any()) and float(differs[named].float().mean()) < 0.5:
        raise Breach(
            f"{which}of {int(named.sum())} images that name image {index} as their source only "
            f"{int(differs[named].sum())} change with it, and others do: the sources are wrong"
        )


def _augmented(subject: Subject, options: StageOptions, world: World, batch: SyntheticBatch) -> SyntheticBatch:
    stage: Augmenter[Any] = make(subject.stage, options, world)  # type: ignore[assignment]
    with frozen(world.student):
        stage.prepare_fully(world.bank())
        return stage.augment(SyntheticBatch(batch.images.clone(), batch.targets.clone()))


def near_variants_stay(subject: Subject) -> str:
    """Of variants from near to far the nearest stay, in some setting, and never fewer of them than of the farthest."""
    _require_keep(subject)
    rates = [rate for options in _all_options(subject) for rate in _rates(subject, options)]
    near, far = max(rates, key=lambda rate: rate[1] - rate[0])
    if far - near > 0.2:
        raise Breach(
            f"it keeps {near:.0%} of the images that are nearly their sources, and {far:.0%} of those that have "
            "nothing of them left: is it inverted?"
        )
    if not any(near for near, _ in rates):
        raise Breach(
            "it keeps none of the images that are nearly their sources, whatever its options: it keeps nothing"
        )
    near, far = rates[0]
    return f"it keeps {near:.0%} of near variants, {far:.0%} of far ones"


def _require_keep(subject: Subject) -> None:
    if not subject.stage.judges_augmented():  # type: ignore[attr-defined]  # a filter's check
        raise Skip("it judges no augmented images: it has no keep")


def _all_options(subject: Subject) -> Iterator[StageOptions]:
    yield from subject.settings
    for name in subject.stage.Options.model_fields:
        yield from subject.others(subject.settings[0], name)


def _rates(subject: Subject, options: StageOptions) -> Iterator[tuple[float, float]]:
    """Shares kept of the nearest and of the farthest variants; nothing where the options break the stage."""
    with suppress(Breach, DfkdError):
        for name in ("one", "two"):
            keep = _answer(subject, options, lambda augmented, source: (augmented, source), name).view(-1, 4).float()
            yield float(keep[:, 0].mean()), float(keep[:, -1].mean())


Rearranged = Callable[[SyntheticBatch, SyntheticBatch], tuple[SyntheticBatch, SyntheticBatch]]


def _answer(subject: Subject, options: StageOptions, rearrange: Rearranged, name: str = "one") -> Tensor:
    with tempfile.TemporaryDirectory(prefix="dfkd-contract-") as folder:
        world = subject.world(folder)
        stage: Filter[Any] = make(subject.stage, options, world)  # type: ignore[assignment]
        source = world.batch(name)
        before = stage.context.generator.get_state()
        with frozen(world.student):
            keep = kept(stage, *rearrange(world.variants(source), source))
        if not torch.equal(before, stage.context.generator.get_state()):
            raise Skip("it draws from its stream: its answers depend on the order")
        return keep


def answers_go_with_their_images(subject: Subject) -> str:
    """In another order of the images, or of their sources, each is answered as before."""
    _require_keep(subject)
    for options in (*subject.settings, *_all_options(subject)):
        with suppress(DfkdError):
            plain = _answer(subject, options, lambda augmented, source: (augmented, source))
            others = {
                "the images": _answer(subject, options, _images_reversed).flip(0),
                "their sources": _answer(subject, options, _sources_turned),
            }
            for what, other in others.items():
                apart = int((plain != other).sum())
                # A few may lie so near to a threshold that rounding decides.
                if apart > 0.05 * len(plain):
                    raise Breach(
                        f"{subject.differing(options)}in another order of {what} {apart} of {len(plain)} are answered "
                        "differently: does it compare an image with another's source?"
                    )
    return ""


def _images_reversed(augmented: SyntheticBatch, source: SyntheticBatch) -> tuple[SyntheticBatch, SyntheticBatch]:
    return augmented.select(torch.arange(len(augmented), device=augmented.targets.device).flip(0)), source


def _sources_turned(augmented: SyntheticBatch, source: SyntheticBatch) -> tuple[SyntheticBatch, SyntheticBatch]:
    """The sources in another order, and the images' references to them likewise; no neighbor stays one."""
    assert augmented.source is not None
    order = (torch.arange(len(source), device=source.targets.device) * 5) % len(source)
    place = order.argsort()
    return SyntheticBatch(augmented.images, augmented.targets, place[augmented.source]), source.select(order)


def selections_go_with_their_images(subject: Subject) -> str:
    """Of a student's batch some images stay, in some setting, and in another order the same."""
    if not subject.stage.judges_batches():  # type: ignore[attr-defined]
        raise Skip("it selects nothing of the student's batches: it has no select")
    most = 0.0
    for options in (*subject.settings, *_all_options(subject)):
        with suppress(DfkdError):
            plain = _selection(subject, options, slice(None))
            apart = int((plain != _selection(subject, options, torch.arange(len(plain)).flip(0)).flip(0)).sum())
            if apart > 0.05 * len(plain):
                which = subject.differing(options)
                raise Breach(f"{which}in another order {apart} of {len(plain)} images are answered differently")
            most = max(most, float(plain.float().mean()))
    if not most:
        raise Breach("it selects none of the student's images, whatever its options")
    return f"it selects up to {most:.0%}"


def _selection(subject: Subject, options: StageOptions, order: slice | Tensor) -> Tensor:
    with tempfile.TemporaryDirectory(prefix="dfkd-contract-") as folder:
        world = subject.world(folder)
        stage: Filter[Any] = make(subject.stage, options, world)  # type: ignore[assignment]
        before = stage.context.generator.get_state()
        with frozen(world.student):
            answer = selected(stage, world.batch("one").select(order))
        if not torch.equal(before, stage.context.generator.get_state()):
            raise Skip("it draws from its stream: its answers depend on the order")
        return answer


AUGMENTING: dict[str, Callable[[Subject], str]] = {"sources and targets are true": sources_are_true}
FILTERING: dict[str, Callable[[Subject], str]] = {
    "near variants stay": near_variants_stay,
    "answers go with their images": answers_go_with_their_images,
    "selections go with their images": selections_go_with_their_images,
}
