from __future__ import annotations

import pytest
import torch
from support.kit import stored

from dfkd_bench import ImageBank, SyntheticBatch
from dfkd_bench.stages.bank import quantize

CPU = torch.device("cpu")
SHAPE = (1, 2, 2)


def make_bank(capacity: int | None = None, seed: int = 0) -> ImageBank:
    return ImageBank(SHAPE, CPU, torch.Generator().manual_seed(seed), capacity)


def numbered(*numbers: int) -> SyntheticBatch:
    """Images whose bytes, and targets which, are these numbers."""
    targets = torch.tensor(numbers, dtype=torch.int64)
    return SyntheticBatch(((targets + 0.5) / 255).view(-1, 1, 1, 1).expand(-1, *SHAPE), targets)


def content(bank: ImageBank) -> list[int]:
    assert bank.images.shape == (len(bank), *SHAPE) and bank.images.dtype == torch.uint8
    assert torch.equal(bank.images.long(), bank.targets.view(-1, 1, 1, 1).expand(-1, *SHAPE))
    return bank.targets.tolist()


def drawn(bank: ImageBank, count: int) -> list[int]:
    images, targets = bank.draw(count)
    assert images.dtype == torch.uint8
    assert images[:, 0, 0, 0].tolist() == targets.tolist()
    return targets.tolist()


def test_bytes_are_truncated_not_rounded():
    values = torch.tensor([0.0, 0.999, 1.0, 0.0039, 0.00393, 0.5, -0.1, 1.1])
    assert quantize(values).tolist() == [0, 254, 255, 0, 1, 127, 0, 255]
    bank = make_bank()
    bank.add(SyntheticBatch(torch.full((1, *SHAPE), 0.999), torch.tensor([3])))
    assert bank.images.unique().tolist() == [254]
    assert bank.batch(slice(0, 1)).images.unique().tolist() == pytest.approx([254 / 255])


def test_a_batch_of_the_bank_is_a_contract_batch_again():
    bank = make_bank()
    bank.add(numbered(1, 2, 3))
    batch = bank.batch(torch.tensor([2, 0]))
    batch.check(SHAPE, 10)
    assert batch.targets.tolist() == [3, 1]
    assert batch.images[:, 0, 0, 0].tolist() == pytest.approx([3 / 255, 1 / 255])


def test_without_a_capacity_everything_is_kept_in_order():
    bank = make_bank()
    for start in range(0, 40, 4):
        bank.add(numbered(*range(start, start + 4)))
    bank.add(numbered())
    assert content(bank) == list(range(40))


def test_past_the_capacity_the_oldest_are_overwritten_around_the_end_of_the_ring():
    bank = make_bank(capacity=5)
    wanted = [[0, 1], [0, 1, 2, 3], [5, 1, 2, 3, 4], [5, 6, 7, 3, 4], [5, 6, 7, 8, 9]]
    for turn, expected in enumerate(wanted):
        bank.add(numbered(2 * turn, 2 * turn + 1))
        assert content(bank) == expected
    bank.add(numbered(*range(20, 32)))
    assert content(bank) == [27, 28, 29, 30, 31]
    bank.add(numbered(40))
    assert content(bank) == [40, 28, 29, 30, 31]


def test_a_pass_draws_every_image_once_and_passes_differ():
    bank = make_bank()
    bank.add(numbered(*range(20)))
    passes = [drawn(bank, 20) for _ in range(3)]
    assert all(sorted(each) == list(range(20)) for each in passes)
    assert passes[0] != list(range(20)) and len({tuple(each) for each in passes}) == 3


def test_a_batch_goes_on_in_the_next_pass():
    bank = make_bank()
    bank.add(numbered(*range(5)))
    order = [number for _ in range(10) for number in drawn(bank, 3)]
    assert [sorted(order[at : at + 5]) for at in range(0, 30, 5)] == [list(range(5))] * 6
    many = drawn(bank, 25)
    assert [sorted(many[at : at + 5]) for at in range(0, 25, 5)] == [list(range(5))] * 5


def test_new_images_start_a_new_pass():
    bank = make_bank()
    bank.add(numbered(*range(6)))
    first = drawn(bank, 4)
    bank.add(numbered(6, 7))
    assert len(first) == 4
    assert sorted(drawn(bank, 8)) == list(range(8))


def test_drawing_from_an_empty_bank_is_an_error_that_says_so():
    bank = make_bank()
    with pytest.raises(ValueError, match="the image bank is empty: nothing was synthesized before distillation"):
        bank.draw(1)


@pytest.mark.parametrize("capacity", [None, 5, 7])
def test_a_bank_goes_on_from_its_state_as_if_nothing_had_happened(capacity):
    bank = make_bank(capacity, seed=1)
    bank.add(numbered(*range(4)))
    bank.add(numbered(4, 5))
    drawn(bank, 3)
    other = make_bank(capacity, seed=2)
    other.load_state_dict(stored(bank.state_dict()))
    other.generator.set_state(bank.generator.get_state())
    assert content(other) == content(bank)
    assert drawn(other, 4) == drawn(bank, 4)
    for turn in range(3, 7):
        for each in (bank, other):
            each.add(numbered(2 * turn, 2 * turn + 1))
        assert content(other) == content(bank)
        assert drawn(other, 9) == drawn(bank, 9)


def test_a_state_does_not_change_with_its_bank():
    bank = make_bank(capacity=2)
    bank.add(numbered(1, 2))
    state = bank.state_dict()
    bank.add(numbered(3, 4))
    assert state["targets"].tolist() == [1, 2]
    assert state["images"][:, 0, 0, 0].tolist() == [1, 2]


GOOD = torch.full((2, *SHAPE), 0.5)
TARGETS = torch.tensor([0, 2])


def replaced(value: float) -> torch.Tensor:
    images = GOOD.clone()
    images[1, 0, 1, 0] = value
    return images


@pytest.mark.parametrize(
    ("images", "targets", "sentence"),
    [
        (GOOD.double(), TARGETS, r"images are torch.float64 \[2, 1, 2, 2\], not float32 \[N, 1, 2, 2\]"),
        (GOOD[:, :, :1], TARGETS, r"images are torch.float32 \[2, 1, 1, 2\], not float32 \[N, 1, 2, 2\]"),
        (GOOD[0], TARGETS, r"images are torch.float32 \[1, 2, 2\], not float32"),
        (GOOD, TARGETS.int(), r"targets are torch.int32 \[2\], not int64 \[2\]"),
        (GOOD, TARGETS[:1], r"targets are torch.int64 \[1\], not int64 \[2\]"),
        (replaced(float("nan")), TARGETS, "images are not finite"),
        (replaced(float("inf")), TARGETS, "images are not finite"),
        (replaced(-0.001), TARGETS, r"images are not in \[0, 1\]"),
        (replaced(1.001), TARGETS, r"images are not in \[0, 1\]"),
        (GOOD, torch.tensor([0, 3]), r"targets are not in 0\.\.2"),
        (GOOD, torch.tensor([-1, 0]), r"targets are not in 0\.\.2"),
    ],
)
def test_what_is_wrong_with_a_batch_is_said(images, targets, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        SyntheticBatch(images, targets).check(SHAPE, 3)


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (None, "augmented images do not name their sources"),
        (torch.tensor([0, 1], dtype=torch.int32), "augmented images do not name their sources"),
        (torch.tensor([0]), "augmented images do not name their sources"),
        (torch.tensor([0, 4]), r"sources are not in 0\.\.3"),
        (torch.tensor([-1, 0]), r"sources are not in 0\.\.3"),
    ],
)
def test_what_is_wrong_with_the_sources_of_augmented_images_is_said(source, sentence):
    with pytest.raises(ValueError, match=f"^{sentence}"):
        SyntheticBatch(GOOD, TARGETS, source).check(SHAPE, 3, sourced=4)


def test_a_good_batch_passes():
    edges = torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, *SHAPE)
    SyntheticBatch(edges, TARGETS).check(SHAPE, 3)
    SyntheticBatch(edges, TARGETS, torch.tensor([3, 3])).check(SHAPE, 3, sourced=4)
    nothing = TARGETS[:0]
    SyntheticBatch(GOOD[:0], nothing, nothing).check(SHAPE, 3, sourced=0)


def test_a_part_of_a_batch_keeps_images_targets_and_sources_together():
    batch = SyntheticBatch(numbered(4, 5, 6).images, torch.tensor([4, 5, 6]), torch.tensor([0, 0, 1]))
    for index in (torch.tensor([True, False, True]), torch.tensor([0, 2]), slice(0, 3, 2)):
        part = batch.select(index)
        assert (quantize(part.images)[:, 0, 0, 0].tolist(), part.targets.tolist(), part.source.tolist()) == (
            [4, 6],
            [4, 6],
            [0, 1],
        )
    assert numbered(1, 2).select(slice(1)).source is None


def softly(*rows: list[float]) -> SyntheticBatch:
    soft = torch.tensor(rows)
    return SyntheticBatch(torch.zeros(len(rows), *SHAPE), soft.argmax(dim=1), torch.zeros(len(rows), 2).long(), soft)


def test_soft_labels_go_beside_hard_ones_which_are_certain():
    bank = make_bank(capacity=4)
    bank.add(numbered(2, 0))
    assert bank.soft is None and bank.batch(slice(None)).soft is None
    bank.add(softly([0.25, 0.75, 0.0], [0.5, 0.0, 0.5]))
    assert bank.soft.tolist() == [[0, 0, 1], [1, 0, 0], [0.25, 0.75, 0], [0.5, 0, 0.5]]
    bank.add(numbered(1))  # in the place of the first
    assert bank.soft[:2].tolist() == [[0, 1, 0], [1, 0, 0]]
    assert bank.augmented.tolist() == [False, False, True, True]
    assert bank.batch(torch.tensor([2])).soft.tolist() == [[0.25, 0.75, 0]]
    other = make_bank(capacity=4)
    other.load_state_dict(stored(bank.state_dict()))
    other.add(softly([0.0, 1.0, 0.0]))
    assert other.soft.tolist() == [[0, 1, 0], [0, 1, 0], [0.25, 0.75, 0], [0.5, 0, 0.5]]
    assert other.augmented.tolist() == [False, True, True, True]


def test_soft_labels_must_be_probabilities_and_sources_may_be_several():
    batch = softly([0.25, 0.75, 0.0])
    batch.check(SHAPE, 3, sourced=1)
    with pytest.raises(ValueError, match="soft labels are torch.float32"):
        batch.check(SHAPE, 4)
    with pytest.raises(ValueError, match="must be non-negative and add up to 1"):
        softly([0.5, 0.75, 0.0]).check(SHAPE, 3)
    with pytest.raises(ValueError, match="do not name their sources"):
        SyntheticBatch(batch.images, batch.targets, torch.zeros(2, 1).long()).check(SHAPE, 3, sourced=2)


def test_bytes_survive_a_second_time_in_the_bank():
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(quantize(values.float() / 255), values)
