import pytest
import torch
from support.method_kit import CPU, bn_input
from torch import nn

from dfkd_bench.blocks.batchnorm import BnAverage

# One channel whose kept statistics are mean 0 and variance 1: the distance is |1 - variance| + |mean|.


def layer():
    return nn.BatchNorm2d(1)


def seen(mean, deviation):
    return [(layer(), bn_input(mean, deviation))]


def test_the_first_round_is_the_plain_distance_however_many_steps_it_has():
    average = BnAverage(0.75)
    assert average.loss(seen(3.0, 2.0)).item() == pytest.approx(3 + 3)
    assert average.loss(seen(-1.0, 0.5)).item() == pytest.approx(0.75 + 1)


def test_the_average_follows_its_recursion_round_by_round():
    average = BnAverage(0.75)
    assert average.loss(seen(4.0, 2.0)).item() == pytest.approx(3 + 4)
    average.update()  # mean 4, variance 4: the first round's own, not mixed with zero
    # mean 1/4 * 8 + 3/4 * 4 = 5, variance 1/4 * 16 + 3/4 * 4 = 7
    assert average.loss(seen(8.0, 4.0)).item() == pytest.approx(6 + 5)
    average.update()  # mean 3/4 * 4 + 1/4 * 8 = 5, variance 3/4 * 4 + 1/4 * 16 = 7
    # mean 1/4 * (-3) + 3/4 * 5 = 3, variance 1/4 * 1 + 3/4 * 7 = 5.5
    assert average.loss(seen(-3.0, 1.0)).item() == pytest.approx(4.5 + 3)
    average.update()  # mean 3/4 * 5 - 1/4 * 3 = 3, variance 3/4 * 7 + 1/4 * 1 = 5.5
    assert average.state_dict()["means"][0].item() == pytest.approx(3)
    assert average.state_dict()["variances"][0].item() == pytest.approx(5.5)


def test_the_average_stands_still_within_a_round():
    average = BnAverage(0.75)
    average.loss(seen(4.0, 2.0))
    average.update()
    for _ in range(3):
        assert average.loss(seen(8.0, 4.0)).item() == pytest.approx(6 + 5)


def test_an_update_takes_the_statistics_of_the_rounds_last_loss():
    average = BnAverage(0.75)
    average.loss(seen(100.0, 10.0))
    average.loss(seen(4.0, 2.0))
    average.update()
    assert average.state_dict()["means"][0].item() == pytest.approx(4)
    assert average.state_dict()["variances"][0].item() == pytest.approx(4)
    average.loss(seen(100.0, 10.0))
    average.loss(seen(8.0, 4.0))
    average.update()
    assert average.state_dict()["means"][0].item() == pytest.approx(5)
    assert average.state_dict()["variances"][0].item() == pytest.approx(7)


def test_the_gradient_is_scaled_by_one_minus_the_momentum():
    average = BnAverage(0.75)
    gradients = []
    for _ in range(2):
        inputs = bn_input(4.0, 2.0).requires_grad_()
        average.loss([(layer(), inputs)]).backward()
        gradients.append(inputs.grad.flatten().tolist())
        average.update()
    # |mean| gives 1/2 to each of the two, |1 - variance| gives x_i - mean = -2 and 2.
    assert gradients[0] == pytest.approx([0.5 - 2, 0.5 + 2])
    assert gradients[1] == pytest.approx([(0.5 - 2) / 4, (0.5 + 2) / 4])


def test_no_gradient_reaches_an_earlier_round():
    average = BnAverage(0.75)
    early = bn_input(4.0, 2.0).requires_grad_()
    average.loss([(layer(), early)])
    average.update()
    late = bn_input(8.0, 4.0).requires_grad_()
    average.loss([(layer(), late)]).backward()
    assert early.grad is None
    assert late.grad is not None


def test_momentum_zero_is_the_plain_distance_in_every_round():
    average = BnAverage(0.0)
    average.loss(seen(4.0, 2.0))
    average.update()
    assert average.loss(seen(8.0, 4.0)).item() == pytest.approx(15 + 8)


def test_the_distance_is_a_plain_norm_over_channels_summed_over_layers():
    wide = nn.BatchNorm2d(2)
    wide.running_mean.copy_(torch.tensor([1.0, 1.0]))
    # Means 4 and 5 lie 3 and 4 from 1: norm 5. Variances 1 and 1: norm 0.
    inputs = torch.cat((bn_input(4.0, 1.0), bn_input(5.0, 1.0)), dim=1)
    average = BnAverage(0.75)
    assert average.loss([(wide, inputs), *seen(3.0, 2.0)]).item() == pytest.approx(5 + 6)


def test_each_layer_has_an_average_of_its_own():
    average = BnAverage(0.75)
    average.loss([*seen(4.0, 2.0), *seen(0.0, 1.0)])
    average.update()
    # The first as above, 11; the second mean 1/4 * 2 = 1/2 and variance 1/4 * 1 + 3/4 * 1 = 1.
    assert average.loss([*seen(8.0, 4.0), *seen(2.0, 1.0)]).item() == pytest.approx(11 + 0.5)


def test_the_average_goes_on_from_its_state():
    average = BnAverage(0.75)
    average.loss(seen(12.0, 2.0))
    average.update()
    other = BnAverage(0.75)
    other.load_state_dict(average.state_dict(), CPU)
    # mean 1/4 * 8 + 3/4 * 12 = 11, variance 1/4 * 16 + 3/4 * 4 = 7
    assert other.loss(seen(8.0, 4.0)).item() == pytest.approx(6 + 11)
    other.update()
    assert other.state_dict()["means"][0].item() == pytest.approx(11)


def test_a_state_before_the_first_round_leads_to_a_first_round():
    other = BnAverage(0.75)
    other.load_state_dict(BnAverage(0.75).state_dict(), CPU)
    assert other.loss(seen(3.0, 2.0)).item() == pytest.approx(6)
    other.update()
    assert other.state_dict()["means"][0].item() == pytest.approx(3)
