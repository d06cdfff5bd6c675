from __future__ import annotations

import math

import pytest
import torch
from support.kit import make_card, make_convnet, make_pencil, plain_bn_distance
from torch import nn

from dfkd_bench.blocks.batchnorm import bn_distances, bn_loss


def layer(mean: list[float], variance: list[float]) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(len(mean)).eval()
    made.running_mean.copy_(torch.tensor(mean))
    made.running_var.copy_(torch.tensor(variance))
    return made


# Channel 0 holds 0, 2, 4, 6: mean 3, biased variance 5 (unbiased 20/3). Channel 1 holds 1, 1, 3, 3: mean 2, variance 1.
INPUTS = torch.tensor([[[[0.0, 2.0]], [[1.0, 1.0]]], [[[4.0, 6.0]], [[3.0, 3.0]]]])


def test_the_distance_is_the_sum_of_two_norms_that_are_not_squared():
    # Mean differences (3, 4): norm 5. Variance differences (12, 5): norm 13.
    assert float(bn_loss([(layer([0.0, -2.0], [17.0, 6.0]), INPUTS)])) == pytest.approx(18.0)


def test_the_variance_is_the_biased_one():
    assert float(bn_loss([(layer([3.0, 2.0], [5.0, 1.0]), INPUTS)])) == pytest.approx(0.0, abs=1e-6)
    unbiased = layer([3.0, 2.0], [20 / 3, 4 / 3])
    assert float(bn_loss([(unbiased, INPUTS)])) == pytest.approx(math.hypot(5 / 3, 1 / 3))


def test_layers_are_summed_without_weights_and_the_first_counts_as_often_as_asked():
    layers = [(layer([0.0, -2.0], [5.0, 1.0]), INPUTS), (layer([3.0, 2.0], [17.0, 6.0]), INPUTS)]
    assert [float(each) for each in bn_distances(layers)] == pytest.approx([5.0, 13.0])
    assert float(bn_loss(layers)) == pytest.approx(18.0)
    assert float(bn_loss(layers, first_weight=10.0)) == pytest.approx(10 * 5.0 + 13.0)
    assert float(bn_loss(layers, first_weight=0.0)) == pytest.approx(13.0)


def test_the_gradient_is_the_closed_form_of_the_mean_term():
    inputs = INPUTS.clone().requires_grad_()
    # The variances agree but for one channel, whose difference is 12; the means are 3 and 4 too small.
    bn_loss([(layer([0.0, -2.0], [17.0, 1.0]), inputs)]).backward()
    # d|m - m^|/dx = (m^ - m) / |m^ - m| / 4, d|v - v^|/dx = -2 (x - m^) / 4.
    channel_0 = [0.6 / 4 - (x - 3) / 2 for x in (0, 2, 4, 6)]
    assert inputs.grad[:, 0].flatten().tolist() == pytest.approx(channel_0)
    assert inputs.grad[:, 1].flatten().tolist() == pytest.approx([0.8 / 4] * 4)


def test_statistics_are_of_the_input_of_the_layer_under_the_cards_normalization():
    card = make_card()
    teacher = make_pencil(card, seed=3)
    images = torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = float(bn_loss(teacher.observe(images, batchnorm=True).batchnorm))
    assert found == pytest.approx(plain_bn_distance(teacher, images), rel=1e-5)


def test_the_gradient_reaches_the_images_through_a_frozen_network():
    card = make_card()
    images = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
    teacher = make_convnet(card, seed=1)
    bn_loss(teacher.observe(images, batchnorm=True).batchnorm).backward()
    assert torch.isfinite(images.grad).all()
    assert (images.grad != 0).float().mean() > 0.9
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_half_precision_inputs_are_summed_in_float32():
    # In bfloat16 the mean of 1 and 1 + 1/128 is one of the two, in float32 it lies between.
    inputs = torch.tensor([1.0, 1 + 1 / 128]).view(1, 1, 1, 2).to(torch.bfloat16)
    assert float(bn_loss([(layer([0.0], [(1 / 256) ** 2]), inputs)])) == pytest.approx(1 + 1 / 256, abs=1e-6)


def test_a_layer_without_running_statistics_is_an_error():
    with pytest.raises(ValueError, match="without running statistics"):
        bn_loss([(nn.BatchNorm2d(2, track_running_stats=False), INPUTS)])
