"""The statistics' own kernel route, against sums in float64."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dfkd_bench.blocks import batchnorm
from dfkd_bench.blocks.batchnorm import _statistics

FORMATS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])


def draw(*shape: int, dtype=torch.float32, layout=torch.contiguous_format, seed=0):
    drawn = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.5
    return drawn.to(dtype).contiguous(memory_format=layout)


def exact(inputs):
    """Mean and biased variance in float64, from the definition."""
    columns = inputs.double().permute(1, 0, 2, 3).flatten(1)
    mean = columns.sum(dim=1) / columns.shape[1]
    return mean, ((columns - mean[:, None]) ** 2).sum(dim=1) / columns.shape[1]


def slope(inputs, to_mean, to_variance):
    """The closed form of the gradient, in float64."""
    mean, _ = exact(inputs)
    count = inputs.numel() // len(mean)
    deviation = inputs.double() - mean[:, None, None]
    return (to_mean[:, None, None] + 2 * to_variance[:, None, None] * deviation) / count


@FORMATS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(128, 32, 32, 32), (100, 64, 16, 16), (3, 5, 7, 4)])
def test_mean_and_variance_are_exact_to_float32_however_many_values_there_are(shape, dtype, layout):
    inputs = draw(*shape, dtype=dtype, layout=layout)
    mean, variance = _statistics(inputs)
    right_mean, right_variance = exact(inputs)
    assert mean.dtype == variance.dtype == torch.float32
    assert (mean - right_mean).abs().max() < 3e-6
    assert (variance / right_variance - 1).abs().max() < 4e-5


@FORMATS
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 5e-3)])
def test_the_gradient_is_the_closed_form(dtype, tolerance, layout):
    inputs = draw(40, 16, 32, 32, dtype=dtype, layout=layout).requires_grad_()
    to_mean, to_variance = draw(16, 1, 1, 1, seed=1).flatten(), draw(16, 1, 1, 1, seed=2).flatten()
    mean, variance = _statistics(inputs * 1)  # not a leaf
    (mean @ to_mean + variance @ to_variance).backward()
    right = slope(inputs.detach(), to_mean, to_variance)
    assert inputs.grad.dtype == dtype
    assert (inputs.grad - right).abs().max() < tolerance * right.abs().max()


@pytest.mark.parametrize("at_once", [1, 2**14])
@FORMATS
def test_gradients_are_those_of_finite_differences_in_float64(layout, at_once, monkeypatch):
    monkeypatch.setattr(batchnorm, "_SUMMED_AT_ONCE", at_once)
    inputs = draw(5, 2, 3, 2, dtype=torch.float64, layout=layout).requires_grad_()
    assert torch.autograd.gradcheck(_statistics, inputs)


def test_a_batch_summed_in_unequal_parts_is_one_batch(monkeypatch):
    inputs = draw(5, 3, 2, 2)
    inputs[4] += 100  # the fifth image, a part of its own
    monkeypatch.setattr(batchnorm, "_SUMMED_AT_ONCE", 8)
    mean, variance = _statistics(inputs)
    right_mean, right_variance = exact(inputs)
    assert torch.allclose(mean.double(), right_mean, rtol=1e-6)
    assert torch.allclose(variance.double(), right_variance, rtol=1e-6)


@FORMATS
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_constant_channel_has_variance_zero_and_its_gradient_is_the_means(dtype, layout):
    inputs = torch.full((4, 2, 3, 3), 0.3, dtype=dtype).contiguous(memory_format=layout).requires_grad_()
    mean, variance = _statistics(inputs)
    assert mean.tolist() == pytest.approx([float(inputs.detach()[0, 0, 0, 0])] * 2, rel=1e-6)
    assert variance.tolist() == pytest.approx([0, 0], abs=1e-12)
    (3.6 * mean + 50 * variance).sum().backward()
    assert inputs.grad.float().flatten().tolist() == pytest.approx([0.1] * 72, rel=4e-3)


def test_tiny_variances_keep_their_digits():
    inputs = draw(16, 3, 8, 8) * torch.tensor([1e-6, 1e-3, 1e6]).view(3, 1, 1)
    assert _statistics(inputs)[1].tolist() == pytest.approx(exact(inputs)[1].tolist(), rel=1e-5)


@FORMATS
def test_one_image(layout):
    inputs = draw(1, 3, 4, 4, layout=layout)
    mean, variance = _statistics(inputs)
    assert mean.tolist() == pytest.approx(exact(inputs)[0].tolist(), rel=1e-5)
    assert variance.tolist() == pytest.approx(exact(inputs)[1].tolist(), rel=1e-5)


def test_a_single_value_has_variance_zero():
    inputs = torch.tensor([2.0, -3.0]).view(1, 2, 1, 1).requires_grad_()
    mean, variance = _statistics(inputs)
    assert mean.tolist() == [2.0, -3.0]
    assert variance.tolist() == [0.0, 0.0]
    (mean + variance).sum().backward()
    assert inputs.grad.flatten().tolist() == [1.0, 1.0]


def test_inputs_with_gaps_between_their_values():
    inputs = draw(4, 6, 8, 8, dtype=torch.bfloat16)[:, ::2, :, ::2].requires_grad_()
    mean, variance = _statistics(inputs)
    assert torch.allclose(mean.double(), exact(inputs)[0], atol=3e-6)
    assert torch.allclose(variance.double(), exact(inputs)[1], rtol=4e-5)
    variance.sum().backward()
    right = slope(inputs.detach(), torch.zeros(3), torch.ones(3))
    assert (inputs.grad - right).abs().max() < 5e-3 * right.abs().max()


def test_only_the_input_and_numbers_per_channel_are_kept_for_the_way_back():
    kept = []
    inputs = draw(64, 16, 32, 32, dtype=torch.bfloat16).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        _statistics(inputs)
    assert [each.shape for each in kept if each.data_ptr() != inputs.data_ptr()] == [(16,)]


def test_shapes_are_known_without_values():
    with FakeTensorMode():
        inputs = torch.empty(40, 3, 32, 32, dtype=torch.bfloat16, requires_grad=True)
        mean, variance = _statistics(inputs)
        (mean + variance).sum().backward()
        assert mean.shape == variance.shape == (3,)
        assert inputs.grad.shape == inputs.shape
        assert inputs.grad.dtype == torch.bfloat16
