"""The first half of a round: synthesize, augment, filter, keep."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dfkd_bench.results.records import BankReport
from dfkd_bench.resume.outcome import DivergedError
from dfkd_bench.runs.parts import RunParts
from dfkd_bench.runs.pictures import Gallery
from dfkd_bench.stages.bank import ImageBank, SyntheticBatch
from dfkd_bench.stages.base import Round
from dfkd_bench.stages.network import frozen

__all__ = ["BankFilling", "check_answer"]


class BankFilling:
    """Owns the image bank, what is said of it, and what is still to be augmented.

    Args:
        parts: the run's.

    Attributes:
        bank: the images kept so far; empty for a synthesizer that streams.
        report: how many images were made and kept.
        gallery: what the run's picture will show.
    """

    def __init__(self, parts: RunParts) -> None:
        self._parts, self._stages = parts, parts.stages
        capacity = parts.spec.schedule.bank_capacity
        self.bank = ImageBank(parts.card.image_shape, parts.device, parts.streams["order"], capacity)
        self.report, self.gallery = BankReport(), Gallery()
        self._rounds, self._augmenter_ready = 0, False
        self._to_augment: tuple[Tensor, Tensor] | None = None
        self._augmented_upto = 0

    def warm_up(self, wanted: int | None) -> float:
        """One round before the student's first step; the part of the warm-up that is behind the run then.

        Args:
            wanted: the warm-up ends when the bank has so many images; None: after this round.
        """
        batch = self._synthesize(warmup=True)
        if wanted is not None:
            if not len(batch):
                raise ValueError(f"the warm-up needs {wanted} images, and a round of it made none")
            batch = batch.select(slice(wanted - len(self.bank)))
        self._keep(batch)
        return len(self.bank) / wanted if wanted else 1.0

    def round(self) -> None:
        """One round between the student's steps."""
        batch = self._synthesize(warmup=False)
        self._keep(batch)
        if not self._stages.synthesizer.stream:
            self._begin_augmentation()
            while not self._augmenter_ready:
                self._prepare()
            self._augment(batch)

    def augment_bank(self) -> float:
        """Augment the next batch of what the warm-up left; the part of it that is augmented then."""
        if self._stages.synthesizer.stream or not len(self.bank):
            return 1.0
        if self._to_augment is None:
            # Copied: in a bank that is full, variants take the places of what they were made from.
            self._to_augment = (self.bank.images.clone(), self.bank.targets.clone())
        self._begin_augmentation()
        if not self._augmenter_ready and not self._prepare():
            return 0.0  # the run may be saved here
        images, targets = self._to_augment
        start, self._augmented_upto = self._augmented_upto, self._augmented_upto + self._parts.spec.schedule.batch_size
        part = slice(start, self._augmented_upto)
        self._augment(SyntheticBatch(images[part].float() / 255, targets[part]))
        if self._augmented_upto < len(images):
            return self._augmented_upto / len(images)
        self._to_augment, self._augmented_upto = None, 0
        return 1.0

    def count(self, **more: int) -> None:
        """Add to the report's counts."""
        counts = {name: getattr(self.report, name) + number for name, number in more.items()}
        self.report = self.report.model_copy(update=counts)

    @torch.no_grad()
    def measure(self) -> None:
        """Complete the report: the bank's size, and how often the teacher sees the wanted class."""
        agreement = None
        if len(self.bank):
            with self._parts.ledger.phase("evaluation"):
                # Evenly spaced images, at most 10,000: enough for a percentage.
                step = math.ceil(len(self.bank) / 10_000)
                index = torch.arange(0, len(self.bank), step, device=self._parts.device)
                batches = (self.bank.batch(part) for part in index.split(500))
                hits = sum(int((self._parts.teacher(b.images).argmax(1) == b.targets).sum()) for b in batches)
            agreement = round(100 * hits / len(index), 4)
        reports = {kind: stage.report() for kind, stage in self._stages.all().items()}
        said = {kind: found for kind, found in reports.items() if found} or None
        self.report = self.report.model_copy(
            update={"in_bank": self._images_kept(), "target_agreement": agreement, "stages": said}
        )

    def _synthesize(self, *, warmup: bool) -> SyntheticBatch:
        parts = self._parts
        parts.emit("phase", {"phase": "synthesizer", "round": self._rounds})
        with (
            parts.watch.untouched(parts.stage("synthesizer")),
            parts.ledger.phase("synthesis") as cost,
            frozen(parts.student),
        ):
            batch = self._stages.synthesizer.synthesize(Round(self._rounds, warmup))
            cost.images += len(batch)
        self._check(batch)
        self._rounds += 1
        self.count(synthesized=len(batch))
        return batch

    def _check(self, batch: SyntheticBatch, sourced: int | None = None) -> None:
        if not bool(torch.isfinite(batch.images).all()):
            raise DivergedError(f"images are not finite after {self.report.synthesized} were synthesized")
        card = self._parts.card
        batch.check(card.image_shape, card.num_classes, sourced=sourced)

    def _keep(self, batch: SyntheticBatch) -> None:
        self.gallery.saw(batch)
        if not self._stages.synthesizer.stream:
            self.bank.add(batch)
        self._images_kept()

    def _images_kept(self) -> int:
        """The bank's and those that the synthesizer keeps by itself, which must not be more than the capacity."""
        own, capacity = self._stages.synthesizer.pool_size(), self.bank.capacity
        if own and capacity is not None and len(self.bank) + own > capacity:
            raise ValueError(
                f"the {self._parts.stage('synthesizer')} keeps {own} images beside the bank's {len(self.bank)}, and "
                f"bank_capacity is {capacity}"
            )
        return len(self.bank) + own

    def _begin_augmentation(self) -> None:
        self._parts.emit("phase", {"phase": "augmenter"})

    def _prepare(self) -> bool:
        """Some of the augmenter's preparation; whether it is done."""
        parts = self._parts
        with (
            parts.watch.untouched(parts.stage("augmenter")),
            parts.ledger.phase("augmentation"),
            frozen(parts.student),
        ):
            done = self._stages.augmenter.prepare(self.bank)
        self._augmenter_ready = done is None or done >= 1
        return self._augmenter_ready

    def _augment(self, source: SyntheticBatch) -> None:
        parts, stages = self._parts, self._stages
        with (
            parts.watch.untouched(parts.stage("augmenter")),
            parts.ledger.phase("augmentation") as cost,
            frozen(parts.student),
        ):
            augmented = stages.augmenter.augment(source)
            cost.images += len(augmented)
        if not len(augmented):
            return
        self._check(augmented, sourced=len(source))
        with parts.watch.untouched(parts.stage("filter")), parts.ledger.phase("filtering") as cost:
            with frozen(parts.student), torch.no_grad():
                keep = stages.filter.keep(augmented, source)
            cost.images += len(augmented)
        check_answer(keep, augmented)
        self.gallery.saw_variants(source, augmented, keep)
        kept = augmented.select(keep)
        self.bank.add(kept)
        self.count(augmented=len(augmented), kept=len(kept))

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume."""
        return {
            "rounds": self._rounds,
            "augmenter_ready": self._augmenter_ready,
            "to_augment": self._to_augment,
            "augmented_upto": self._augmented_upto,
            "bank": self.bank.state_dict(),
            "gallery": self.gallery.state_dict(),
            "report": self.report.model_dump(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""
        self._rounds, self._augmenter_ready = state["rounds"], state["augmenter_ready"]
        self._augmented_upto = state["augmented_upto"]
        if state["to_augment"] is not None:
            images, targets = state["to_augment"]
            self._to_augment = (images.to(self._parts.device), targets.to(self._parts.device))
        self.bank.load_state_dict(state["bank"])
        self.gallery.load_state_dict(state["gallery"])
        self.report = BankReport.model_validate(state["report"])


def check_answer(answer: Tensor, images: SyntheticBatch) -> None:
    """Check what a filter says of images.

    Raises:
        ValueError: it is not one truth value for each.
    """
    if answer.dtype != torch.bool or answer.shape != images.targets.shape:
        raise ValueError(f"the filter answered {answer.dtype} {list(answer.shape)}, not bool [{len(images)}]")
