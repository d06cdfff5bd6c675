from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from support.kit import make_card, make_convnet, make_pencil, plain_pencil
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from dfkd_bench import DfkdError, Network
from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.models.build import build_model
from dfkd_bench.stages.network import frozen


def some_images(count: int = 4, channels: int = 3, side: int = 8) -> Tensor:
    return torch.rand(count, channels, side, side, generator=torch.Generator().manual_seed(0))


def hooks(module: nn.Module) -> int:
    return sum(len(each._forward_hooks) + len(each._forward_pre_hooks) for each in module.modules())


def test_images_are_normalized_by_the_card():
    network = make_convnet(make_card(), seed=0)
    # The card's mean is (0.5, 0.4, 0.3) and its deviation (0.25, 0.2, 0.5).
    found = network.normalize(torch.tensor([0.75, 0.0, 0.3]).view(1, 3, 1, 1))
    assert found.flatten().tolist() == pytest.approx([1.0, -2.0, 0.0], abs=1e-6)


def test_logits_features_and_batchnorm_inputs_are_those_worked_out_by_hand():
    network, images = make_pencil(make_card(), seed=0), some_images()
    inputs, features, logits = plain_pencil(network, images)
    seen = network.observe(images, batchnorm=True)
    np.testing.assert_allclose(network(images).numpy(), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen.logits.numpy(), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(seen.features.numpy(), features, rtol=1e-4, atol=1e-5)
    ((layer, given),) = seen.batchnorm
    assert layer is network.body[0]
    np.testing.assert_allclose(given.numpy(), inputs, rtol=1e-4, atol=1e-5)
    assert network.feature_dim == network.num_classes == 3


class _Backwards(nn.Module):
    """Defines its layers in another order than it runs them, and the last linear layer is not the first one."""

    def __init__(self) -> None:
        super().__init__()
        self.late = nn.BatchNorm2d(1)
        self.early = nn.BatchNorm2d(1)
        self.embed = nn.Linear(1, 2)
        self.out = nn.Linear(2, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.late(self.early(x) * 2 + 1)
        return self.out(self.embed(x.mean(dim=(2, 3))).relu())


def test_batchnorm_layers_come_in_the_order_in_which_they_run():
    body = _Backwards().eval().requires_grad_(False)
    seen = Network(body, make_card(channels=1)).observe(torch.full((1, 1, 8, 8), 0.75), batchnorm=True)
    assert [layer for layer, _ in seen.batchnorm] == [body.early, body.late]
    # (0.75 - 0.5) / 0.25 = 1; through a fresh BatchNorm 1 / sqrt(1 + eps), then times 2 plus 1.
    assert [float(given.mean()) for _, given in seen.batchnorm] == pytest.approx([1.0, 2 / math.sqrt(1 + 1e-5) + 1])


def test_features_are_the_input_of_the_last_linear_layer():
    body = _Backwards().eval()
    network = Network(body, make_card(channels=1))
    assert (network.feature_dim, network.num_classes) == (2, 5)
    seen = network.observe(some_images(channels=1))
    torch.testing.assert_close(body.out(seen.features), seen.logits)
    assert bool((seen.features >= 0).all())


def test_the_batchnorm_inputs_of_a_wide_resnet_are_what_its_layers_were_given():
    card = make_card()
    body = build_model("wrn16_1", card, default_registry()).eval()
    network, images = Network(body, card), some_images(2)
    outputs = []
    layers = [layer for layer in body.modules() if isinstance(layer, nn.BatchNorm2d)]
    handles = [layer.register_forward_hook(lambda m, _, out: outputs.append((m, out.clone()))) for layer in layers]
    seen = network.observe(images, batchnorm=True)
    for handle in handles:
        handle.remove()
    assert len(seen.batchnorm) == len(layers) == 13
    # Three stages of two blocks with two layers each, and one at the end.
    widths = [layer.num_features for layer, _ in seen.batchnorm]
    assert widths == [16, 16, 16, 16, 16, 32, 32, 32, 32, 64, 64, 64, 64]
    for (layer, given), (other, output) in zip(seen.batchnorm, outputs, strict=True):
        assert layer is other
        shape = (1, -1, 1, 1)
        by_hand = (given - layer.running_mean.view(shape)) / (layer.running_var.view(shape) + layer.eps).sqrt()
        by_hand = by_hand * layer.weight.view(shape) + layer.bias.view(shape)
        torch.testing.assert_close(output, by_hand, rtol=1e-4, atol=1e-4)


def test_maps_and_inputs_are_those_of_the_named_modules():
    network, images = make_convnet(make_card(), seed=0), some_images()
    assert network.stage_names == ("conv1", "conv2")
    seen = network.observe(images, maps=("conv1", "bn2"), inputs=("bn1", "conv1"))
    assert set(seen.maps) == {"conv1", "bn2"} and set(seen.inputs) == {"bn1", "conv1"}
    assert seen.batchnorm == []
    torch.testing.assert_close(seen.inputs["conv1"], network.normalize(images))
    torch.testing.assert_close(seen.maps["conv1"], network.body.conv1(network.normalize(images)))
    torch.testing.assert_close(seen.inputs["bn1"], seen.maps["conv1"])
    torch.testing.assert_close(seen.features, seen.maps["bn2"].relu().mean(dim=(2, 3)))


def test_a_body_that_names_no_stages_has_none():
    assert make_pencil(make_card(), seed=0).stage_names == ()


@pytest.mark.parametrize("asked", [{"maps": ("conv1", "conv9")}, {"inputs": ("conv9",)}])
def test_an_unknown_module_is_an_error_and_leaves_no_hook(asked):
    network = make_convnet(make_card(), seed=0)
    with pytest.raises(DfkdError, match=r"has no module 'conv9'"):
        network.observe(some_images(), batchnorm=True, **asked)
    assert hooks(network) == 0


def test_a_body_without_a_linear_layer_is_an_error():
    with pytest.raises(DfkdError, match="Conv2d has no linear layer at its end"):
        Network(nn.Conv2d(3, 3, 1), make_card())


def test_hooks_are_gone_after_an_observation_also_after_one_that_failed():
    network = make_convnet(make_card(), seed=0)
    assert hooks(network) == 0
    network.observe(some_images(), batchnorm=True, maps=("conv1",), inputs=("conv2",))
    assert hooks(network) == 0
    with pytest.raises(RuntimeError):
        network.observe(some_images(channels=1).expand(-1, 5, -1, -1)[:, :2], batchnorm=True, maps=("conv1",))
    assert hooks(network) == 0


def test_bfloat16_runs_the_body_in_half_precision_and_answers_in_float32():
    card, images = make_card(), some_images()
    exact = make_convnet(card, seed=0)
    half = Network(exact.body, card, torch.bfloat16)
    seen = half.observe(images, batchnorm=True, maps=("conv1",), inputs=("conv2",))
    for tensor in (half(images), seen.logits, seen.features, seen.maps["conv1"], seen.inputs["conv2"]):
        assert tensor.dtype == torch.float32
    assert seen.batchnorm[0][1].dtype == torch.bfloat16
    assert not torch.equal(half(images), exact(images))
    torch.testing.assert_close(half(images), exact(images), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_what_is_observed_lies_on_the_path_to_the_logits(precision):
    body, images = make_convnet(make_card(), seed=0).body, some_images().requires_grad_()
    network = Network(body, make_card(), precision)
    seen = network.observe(images, batchnorm=True, maps=("conv1", "bn2"), inputs=("bn1", "conv2"))
    assert torch.equal(seen.logits, network(images))
    wanted = [seen.features, *seen.maps.values(), *seen.inputs.values(), seen.batchnorm[1][1]]
    gradients = torch.autograd.grad(seen.logits.square().sum(), wanted, retain_graph=True)
    assert all(float(gradient.abs().max()) > 0 for gradient in gradients)
    # d(z . z)/d features through z = W f + b is 2 W' z.
    torch.testing.assert_close(gradients[0], 2 * seen.logits.detach() @ body.fc.weight, rtol=0.02, atol=0.02)
    # A loss on a map reaches the images as the loss on the logits does.
    for tensor in wanted[:-1]:
        (to_images,) = torch.autograd.grad(tensor.sum(), images, retain_graph=True)
        assert float(to_images.abs().max()) > 0


@pytest.mark.parametrize("training", [False, True])
def test_a_frozen_network_is_as_it_was_afterwards(training):
    network = make_convnet(make_card(), seed=0).train(training)
    network.body.conv1.weight.requires_grad_(True)
    with frozen(network):
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
    assert all(module.training is training for module in network.modules())
    assert {name for name, each in network.named_parameters() if each.requires_grad} == {"body.conv1.weight"}


def test_a_network_thaws_also_after_an_exception():
    network = make_convnet(make_card(), seed=0).train().requires_grad_(True)
    with pytest.raises(KeyError), frozen(network):
        raise KeyError
    assert network.training and all(parameter.requires_grad for parameter in network.parameters())


def test_observing_a_teacher_changes_nothing_in_it():
    network = make_convnet(make_card(), seed=0)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = some_images().requires_grad_()
    seen = network.observe(images, batchnorm=True, maps=("conv1",))
    (seen.logits.sum() + seen.batchnorm[1][1].square().sum()).backward()
    assert images.grad.abs().sum() > 0
    after = network.state_dict()
    assert before.keys() == after.keys() and len(before) > 10
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_state_is_the_bodys_own():
    network = make_convnet(make_card(), seed=0)
    assert set(network.state_dict()) == {f"body.{name}" for name in network.body.state_dict()}


def casts_of(network, images):
    shapes = [each.shape for each in network.body.parameters()]

    class Count(TorchDispatchMode):
        found = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is torch.ops.aten._to_copy.default and not args[0].requires_grad:
                self.found += args[0].shape in shapes
            return func(*args, **(kwargs or {}))

    with Count() as count:
        answer = network(images)
    return answer, count.found


def test_frozen_weights_are_cast_to_half_precision_once_and_anew_when_they_change():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 5)).eval()
    network, images = Network(body, make_card(), torch.bfloat16).requires_grad_(False), torch.rand(7, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        plain = body(network.normalize(images)).float()
    first, second = casts_of(network, images), casts_of(network, images)
    assert torch.equal(first[0], plain)
    assert torch.equal(second[0], plain)
    assert (first[1], second[1]) == (4, 0)  # two weights, two biases
    assert {each.dtype for each in body.parameters()} == {torch.float32}
    body[3].bias.data.add_(1)
    body[3].bias.add_(1)
    assert (network(images) - plain).min() > 1.9
    with pytest.raises(RuntimeError):
        network(torch.rand(7, 2, 8, 8))
    assert all(isinstance(each, nn.Parameter) and each.dtype == torch.float32 for each in body.parameters())
    network.requires_grad_(True)
    network(images).sum().backward()
    assert all(each.grad is not None for each in body.parameters())


def test_weights_that_a_fused_optimizer_moved_are_cast_anew():
    # Torch does not count what it writes.
    network, images = Network(make_convnet(make_card(), seed=0).body, make_card(), torch.bfloat16), some_images()
    optimizer = torch.optim.SGD(network.parameters(), 1.0, fused=True)
    with frozen(network):
        before = network(images)
    network.requires_grad_(True)
    network(images).sum().backward()
    optimizer.step()
    with frozen(network):
        after = network(images)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(after, network.body(network.normalize(images)).float())
    assert not torch.equal(before, after)
