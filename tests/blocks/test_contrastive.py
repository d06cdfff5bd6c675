from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.kit import make_card, make_pencil, plain_pencil, stored
from torch import Tensor, nn

from dfkd_bench import Network
from dfkd_bench.blocks.contrastive import InstanceBank, ProjectionHead, contrastive_loss, instance_features

CPU = torch.device("cpu")
UNIT = torch.eye(2)


def test_without_remembered_images_it_is_the_cross_entropy_over_the_batch():
    # Logits 2 on the diagonal, 0 beside it.
    assert float(contrastive_loss(UNIT, UNIT, 2, tau=0.5)) == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-5)
    assert float(contrastive_loss(UNIT, UNIT.flip(0), 2, tau=0.5)) == pytest.approx(math.log(1 + math.exp(2)), rel=1e-5)


LOCAL = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
GLOB = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])


def test_with_remembered_images_the_mean_over_their_rows_is_added():
    # The rows of LOCAL @ GLOB^T, at tau = 1.
    rows = (1.0, 0.0, 0.8), (0.0, 1.0, 0.6), (0.6, 0.8, 0.96)
    losses = [math.log(sum(map(math.exp, row))) - row[index] for index, row in enumerate(rows)]
    assert float(contrastive_loss(LOCAL, GLOB, 2, tau=1.0)) == pytest.approx(sum(losses[:2]) / 2 + losses[2], rel=1e-5)
    assert float(contrastive_loss(LOCAL, GLOB, 1, tau=1.0)) == pytest.approx(losses[0] + sum(losses[1:]) / 2, rel=1e-5)
    assert float(contrastive_loss(LOCAL, GLOB, 3, tau=1.0)) == pytest.approx(sum(losses) / 3, rel=1e-5)


def test_the_gradient_reaches_the_local_views_alone():
    local, glob = UNIT.clone().requires_grad_(), UNIT.clone().requires_grad_()
    contrastive_loss(local, glob, 2, tau=0.5).backward()
    assert glob.grad is None
    # d/d local_i = sum_j (softmax_ij - [i = j]) glob_j / tau, over two rows.
    off = math.exp(0) / (math.exp(0) + math.exp(2))
    assert local.grad.flatten().tolist() == pytest.approx([-off, off, off, -off], rel=1e-4)


def test_the_projection_is_two_layers_and_a_unit_length():
    head = ProjectionHead(2, 3)
    first, last = torch.tensor([[1.0, 0.0], [0.0, -1.0]]), torch.tensor([[3.0, 9.0], [0.0, 9.0], [4.0, 9.0]])
    with torch.no_grad():
        head.layers[0].weight.copy_(first)
        head.layers[0].bias.zero_()
        head.layers[2].weight.copy_(last)
        head.layers[2].bias.zero_()
    # The second hidden unit is -1 and is cut off: (2, 0) -> (6, 0, 8).
    assert head(torch.tensor([[2.0, 1.0]])).flatten().tolist() == pytest.approx([0.6, 0.0, 0.8])


def numbers(bank: InstanceBank) -> list[int]:
    """Which images are remembered, by the number that `feed` gave them."""
    local, glob = bank.sample(1000, torch.Generator().manual_seed(0))
    assert torch.equal(glob, local + 0.5)
    return sorted(local[:, 0].int().tolist())


def feed(bank: InstanceBank, start: int, count: int) -> None:
    local = torch.arange(start, start + count).float()[:, None].repeat(1, 2)
    bank.add(local, local + 0.5)


def test_the_bank_forgets_the_oldest_first_with_batches_that_do_not_divide_its_size():
    bank = InstanceBank(5, 2, CPU)
    expected = [[0, 1], [0, 1, 2, 3], [1, 2, 3, 4, 5], [3, 4, 5, 6, 7], [5, 6, 7, 8, 9], [7, 8, 9, 10, 11]]
    for turn, wanted in enumerate(expected):
        feed(bank, 2 * turn, 2)
        assert numbers(bank) == wanted
        assert len(bank) == len(wanted)


def test_a_bank_that_is_exactly_full_still_gives_all_its_images():
    # The fault B09 of released code: at this point there were none, and the mean over nothing was not a number.
    bank = InstanceBank(8, 2, CPU)
    for turn in range(4):
        feed(bank, 2 * turn, 2)
    assert numbers(bank) == list(range(8))
    local, glob = bank.sample(4, torch.Generator().manual_seed(0))
    assert len(set(local[:, 0].tolist())) == 4
    unit = torch.nn.functional.normalize(torch.cat((UNIT, local)), dim=1)
    assert math.isfinite(float(contrastive_loss(unit, unit, 2, tau=0.1)))
    assert len(glob) == 4
    feed(bank, 8, 2)
    assert numbers(bank) == list(range(2, 10))


def test_an_empty_bank_gives_nothing():
    assert [each.shape for each in InstanceBank(8, 2, CPU).sample(4, torch.Generator())] == [(0, 2), (0, 2)]


def test_of_a_batch_larger_than_the_bank_the_last_images_stay():
    bank = InstanceBank(3, 2, CPU)
    feed(bank, 0, 2)
    feed(bank, 2, 8)
    assert numbers(bank) == [7, 8, 9]
    feed(bank, 10, 1)
    assert numbers(bank) == [8, 9, 10]


def test_samples_are_drawn_without_replacement_and_differ():
    bank = InstanceBank(50, 2, CPU)
    feed(bank, 0, 50)
    stream = torch.Generator().manual_seed(0)
    draws = [bank.sample(20, stream)[0][:, 0].tolist() for _ in range(2)]
    assert [len(set(draw)) for draw in draws] == [20, 20]
    assert draws[0] != draws[1]


def test_the_bank_keeps_no_graph():
    bank = InstanceBank(4, 2, CPU)
    rows = torch.ones(2, 2, requires_grad=True)
    bank.add(2 * rows, 3 * rows)
    assert not any(each.requires_grad for each in bank.sample(2, torch.Generator()))


def test_a_bank_goes_on_from_its_state_as_if_nothing_had_happened():
    bank = InstanceBank(5, 2, CPU)
    for turn in range(4):
        feed(bank, 2 * turn, 2)
    other = InstanceBank(5, 2, CPU)
    other.load_state_dict(stored(bank.state_dict()))
    for turn in range(4, 7):
        assert numbers(other) == numbers(bank)
        feed(bank, 2 * turn, 2)
        feed(other, 2 * turn, 2)
    assert numbers(other) == numbers(bank) == [9, 10, 11, 12, 13]


def test_a_state_does_not_change_with_its_bank():
    bank = InstanceBank(2, 2, CPU)
    feed(bank, 0, 2)
    state = bank.state_dict()
    feed(bank, 2, 2)
    assert state["rows"][:, 0, 0].tolist() == [0, 1]


def test_a_state_holds_the_rows_in_use_and_does_not_change_with_the_bank_that_goes_on_from_it():
    bank = InstanceBank(5, 2, CPU)
    feed(bank, 0, 2)
    feed(bank, 2, 1)  # room for four by now
    state = bank.state_dict()
    assert state["rows"].shape == (3, 2, 2)
    other = InstanceBank(5, 2, CPU)
    other.load_state_dict(state)
    feed(other, 3, 4)
    assert numbers(other) == [2, 3, 4, 5, 6]
    assert state["rows"][:, 0, 0].tolist() == [0, 1, 2]


def test_the_bank_grows_by_doubling_and_not_past_its_capacity():
    bank, rooms = InstanceBank(100, 2, CPU), []
    for turn in range(30):
        feed(bank, 7 * turn, 7)
        rooms.append(len(bank._room))
    assert sorted(set(rooms)) == [7, 14, 28, 56, 100]
    assert numbers(bank) == list(range(110, 210))


def test_instance_features_are_the_spatial_means_one_map_after_the_other():
    first = torch.tensor([[[[1.0, 3.0]], [[10.0, 20.0]]], [[[5.0, 5.0]], [[0.0, 0.0]]]])
    second = torch.tensor([[[[7.0]]], [[[8.0]]]])
    assert instance_features([first, second]).tolist() == [[2.0, 15.0, 7.0], [5.0, 0.0, 8.0]]


class _Affine(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 3 * x + 1


def test_the_features_of_a_network_are_the_means_of_its_batchnorms_inputs_in_the_order_in_which_they_run():
    card = make_card()
    single = make_pencil(card, seed=4)
    body = nn.Sequential(single.body[0], _Affine(), nn.BatchNorm2d(3), *list(single.body)[1:])
    network = Network(body, card).eval()
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    inputs, after, _ = plain_pencil(single, images)
    # Means of the first layer's input, and of the second's: what the first puts out, times 3, plus 1.
    expected = np.concatenate([inputs.mean(axis=(2, 3)), 3 * after + 1], axis=1)
    found = instance_features(each for _, each in network.observe(images, batchnorm=True).batchnorm)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
