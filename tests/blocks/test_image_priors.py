from __future__ import annotations

import math

import pytest
import torch

from dfkd_bench.blocks.image_priors import l2_norm, total_variation

# Right: -1, -4. Down: -3, -6. Falling diagonal: 7. Rising diagonal: 2.
IMAGE = torch.tensor([[[[1.0, 2.0], [4.0, 8.0]]]])
BATCH = torch.cat((IMAGE, torch.zeros_like(IMAGE)))


def test_l1_total_variation_is_the_sum_of_four_means():
    assert float(total_variation(IMAGE)) == pytest.approx(5 / 2 + 9 / 2 + 7 + 2)
    assert float(total_variation(BATCH)) == pytest.approx((5 / 2 + 9 / 2 + 7 + 2) / 2)


def test_l2_total_variation_is_the_sum_of_four_norms_over_the_batch():
    value = math.sqrt(17) + math.sqrt(45) + 7 + 2
    assert float(total_variation(IMAGE, "l2_norm")) == pytest.approx(value)
    assert float(total_variation(BATCH, "l2_norm")) == pytest.approx(value)
    assert float(total_variation(torch.cat((IMAGE, IMAGE)), "l2_norm")) == pytest.approx(math.sqrt(2) * value)


def test_only_neighbors_count_in_images_that_are_not_square():
    # 0 1 2 / 3 4 5: right differs by 1 four times, down by 3 three times, falling by 4 twice, rising by 2 twice.
    image = torch.arange(6.0).view(1, 1, 2, 3)
    assert float(total_variation(image)) == pytest.approx(1 + 3 + 4 + 2)
    assert float(total_variation(image, "l2_norm")) == pytest.approx(2 + math.sqrt(27) + math.sqrt(32) + math.sqrt(8))


@pytest.mark.parametrize("kind", ["l1_mean", "l2_norm"])
def test_gradients_are_those_of_finite_differences_in_float64(kind):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 2, 4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    assert torch.autograd.gradcheck(lambda each: 3 * total_variation(each, kind), images)


def test_between_equal_neighbors_there_is_no_slope():
    images = torch.ones(1, 1, 3, 3, requires_grad=True)
    total_variation(images).backward()
    assert images.grad.tolist() == torch.zeros(1, 1, 3, 3).tolist()


def test_an_unknown_kind_is_an_error():
    with pytest.raises(ValueError, match="unknown total variation 'l3'"):
        total_variation(IMAGE, "l3")


def test_the_l2_norm_is_that_of_the_whole_batch():
    assert float(l2_norm(torch.tensor([[[[3.0]]], [[[4.0]]]]))) == pytest.approx(5.0)
