"""Synthetic batches, and the bank that keeps them as bytes on the compute device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ImageBank", "SyntheticBatch", "quantize"]


@dataclass(frozen=True)
class SyntheticBatch:
    """Synthetic images.

    Attributes:
        images: float32 [N, C, H, W] in [0, 1].
        targets: int64 [N], the classes that they were made for.
        source: int64 [N] or [N, P], for augmented images the index of the image, or of the P images, that each came
            from; else None.
        soft: float32 [N, K], probabilities of the classes, for images that have no single one; else None. `targets`
            holds the likeliest class all the same.
    """

    images: Tensor
    targets: Tensor
    source: Tensor | None = None
    soft: Tensor | None = None

    def __len__(self) -> int:
        return len(self.images)

    def select(self, index: Tensor | slice) -> SyntheticBatch:
        """The part that `index` (bool, int64 or a slice) picks."""
        source, soft = (None if part is None else part[index] for part in (self.source, self.soft))
        return SyntheticBatch(self.images[index], self.targets[index], source, soft)

    @staticmethod
    def joined(batches: Sequence[SyntheticBatch]) -> SyntheticBatch:
        """Several batches, one at least, as one without sources; soft labels where some have them."""
        images, targets = (torch.cat([getattr(batch, name) for batch in batches]) for name in ("images", "targets"))
        classes = next((batch.soft.shape[1] for batch in batches if batch.soft is not None), None)
        if classes is None:
            return SyntheticBatch(images, targets)
        soft = [F.one_hot(b.targets, classes).float() if b.soft is None else b.soft for b in batches]
        return SyntheticBatch(images, targets, soft=torch.cat(soft))

    def check(self, image_shape: tuple[int, int, int], num_classes: int, *, sourced: int | None = None) -> None:
        """Check the batch against the contract.

        Args:
            image_shape: channels, height, width.
            num_classes: targets are below it.
            sourced: if given, `source` must be there and index a batch of that length.

        Raises:
            ValueError: shape, type, range or finiteness is wrong; the sentence says which.
        """
        if self.images.dtype != torch.float32 or self.images.shape[1:] != torch.Size(image_shape):
            found = f"{self.images.dtype} {list(self.images.shape)}"
            raise ValueError(f"images are {found}, not float32 [N, {', '.join(map(str, image_shape))}]")
        if self.targets.dtype != torch.int64 or self.targets.shape != self.images.shape[:1]:
            raise ValueError(f"targets are {self.targets.dtype} {list(self.targets.shape)}, not int64 [{len(self)}]")
        if len(self) and not bool(torch.isfinite(self.images).all()):
            raise ValueError("images are not finite")
        if len(self) and not (float(self.images.min()) >= 0 and float(self.images.max()) <= 1):
            raise ValueError("images are not in [0, 1]")
        if len(self) and not (int(self.targets.min()) >= 0 and int(self.targets.max()) < num_classes):
            raise ValueError(f"targets are not in 0..{num_classes - 1}")
        if self.soft is not None:
            self._check_soft(self.soft, num_classes)
        if sourced is not None:
            if self.source is None or self.source.dtype != torch.int64 or self.source.shape[:1] != self.targets.shape:
                raise ValueError("augmented images do not name their sources (int64 [N], or [N, P] for P each)")
            if len(self) and not (int(self.source.min()) >= 0 and int(self.source.max()) < sourced):
                raise ValueError(f"sources are not in 0..{sourced - 1}")

    def _check_soft(self, soft: Tensor, num_classes: int) -> None:
        if soft.dtype != torch.float32 or soft.shape != (len(self), num_classes):
            raise ValueError(
                f"soft labels are {soft.dtype} {list(soft.shape)}, not float32 [{len(self)}, {num_classes}]"
            )
        if len(self) and not (float(soft.min()) >= 0 and bool(((soft.sum(dim=1) - 1).abs() < 1e-3).all())):
            raise ValueError("soft labels are no probabilities: each row must be non-negative and add up to 1")


def quantize(images: Tensor) -> Tensor:
    """Images in [0, 1] as uint8, truncated as in the field's released pools: floor(255 x)."""
    return (images.clamp(0, 1) * 255).to(torch.uint8)


class ImageBank:
    """The synthetic images kept so far, uint8 on the compute device.

    Sampling goes through shuffled passes without replacement; a batch that reaches a pass's end continues in the next
    one, and new images start a new pass.

    Args:
        image_shape: channels, height, width.
        device: where the bytes lie.
        generator: draws the order; on `device`.
        capacity: most images kept, the oldest are overwritten first; None keeps all.
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        device: torch.device,
        generator: torch.Generator,
        capacity: int | None = None,
    ) -> None:
        self.capacity = capacity
        self.generator = generator
        self._images = torch.empty((0, *image_shape), dtype=torch.uint8, device=device)
        self._targets = torch.empty(0, dtype=torch.int64, device=device)
        self._augmented = torch.empty(0, dtype=torch.bool, device=device)
        # Made when the first soft labels come: most banks never have any.
        self._soft: Tensor | None = None
        self._count = 0
        self._next = 0
        self._order = torch.empty(0, dtype=torch.int64, device=device)
        self._cursor = 0

    def __len__(self) -> int:
        return self._count

    @property
    def images(self) -> Tensor:
        """uint8 [len, C, H, W], in the order of their places in the ring."""
        return self._images[: self._count]

    @property
    def targets(self) -> Tensor:
        """int64 [len]."""
        return self._targets[: self._count]

    @property
    def augmented(self) -> Tensor:
        """bool [len], true for images that an augmenter made."""
        return self._augmented[: self._count]

    @property
    def soft(self) -> Tensor | None:
        """float32 [len, K], the images' classes as probabilities; None as long as no batch had soft labels."""
        return None if self._soft is None else self._soft[: self._count]

    def batch(self, index: Tensor | slice) -> SyntheticBatch:
        """The images at `index`, as float32 in [0, 1]."""
        soft = None if self.soft is None else self.soft[index]
        return SyntheticBatch(self.images[index].float() / 255, self.targets[index], soft=soft)

    def add(self, batch: SyntheticBatch) -> None:
        """Keep a batch; past the capacity it overwrites the oldest images, wrapping around.

        Images that name a source count as augmented.
        """
        if self.capacity is not None and len(batch) > self.capacity:
            batch = batch.select(slice(-self.capacity, None))
        images, targets = quantize(batch.images.detach()), batch.targets
        wanted = self._count + len(images)
        self._reserve(wanted if self.capacity is None else min(wanted, self.capacity))
        modulus = self.capacity or len(self._images)
        if len(images):
            place = (self._next + torch.arange(len(images), device=images.device)) % modulus
            self._images[place] = images
            self._targets[place] = targets
            self._augmented[place] = batch.source is not None
            self._place_soft(place, batch)
            self._next = (self._next + len(images)) % modulus if self.capacity else wanted
            self._count = wanted if self.capacity is None else min(wanted, self.capacity)
        self._order = self._order[:0]
        self._cursor = 0

    def _reserve(self, count: int) -> None:
        if count <= len(self._images):
            return
        # Doubling keeps the number of copies small; the tail past `count` is never read.
        room = max(count, 2 * len(self._images))
        room = room if self.capacity is None else min(room, self.capacity)
        grown = self._images.new_empty((room, *self._images.shape[1:]))
        grown[: self._count] = self.images
        self._images = grown
        self._targets, self._augmented = _longer(self._targets, room), _longer(self._augmented, room)
        self._soft = None if self._soft is None else _longer(self._soft, room)

    def _place_soft(self, place: Tensor, batch: SyntheticBatch) -> None:
        if batch.soft is not None and self._soft is None:
            self._soft = batch.soft.new_zeros((len(self._images), batch.soft.shape[1]))
            self._soft[: self._count] = F.one_hot(self.targets, batch.soft.shape[1]).float()
        if self._soft is not None:
            hard = F.one_hot(batch.targets, self._soft.shape[1]).float()
            self._soft[place] = hard if batch.soft is None else batch.soft

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """The next `count` images (uint8) and targets of the shuffled passes.

        Raises:
            ValueError: the bank is empty.
        """
        index = self.draw_index(count)
        return self._images[index], self._targets[index]

    def draw_index(self, count: int) -> Tensor:
        """The places, int64 [count], of the next images of the shuffled passes.

        Raises:
            ValueError: the bank is empty.
        """
        if not self._count:
            raise ValueError("the image bank is empty: nothing was synthesized before distillation")
        picked: list[Tensor] = []
        while count:
            if self._cursor == len(self._order):
                self._order = torch.randperm(self._count, generator=self.generator, device=self._images.device)
                self._cursor = 0
            part = self._order[self._cursor : self._cursor + count]
            self._cursor += len(part)
            count -= len(part)
            picked.append(part)
        return torch.cat(picked)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to resume."""
        return {
            "images": self.images.to("cpu", copy=True),  # a second bank need not fit on the device
            "targets": self.targets.to("cpu", copy=True),
            "augmented": self.augmented.to("cpu", copy=True),
            "soft": None if self.soft is None else self.soft.to("cpu", copy=True),
            "next": self._next,
            "order": self._order.to("cpu", copy=True),
            "cursor": self._cursor,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume from `state`."""
        device = self._images.device
        self._images = state["images"].to(device)
        self._targets = state["targets"].to(device)
        self._augmented = state["augmented"].to(device)
        self._soft = None if state["soft"] is None else state["soft"].to(device)
        self._count = len(self._images)
        self._next = state["next"]
        self._order = state["order"].to(device)
        self._cursor = state["cursor"]


def _longer(column: Tensor, room: int) -> Tensor:
    longer = column.new_zeros((room, *column.shape[1:]))
    longer[: len(column)] = column
    return longer
