from __future__ import annotations

import pytest
import torch
from torch import nn

from dfkd_bench.blocks.generators import Generator, reset_generator


@pytest.mark.parametrize(
    ("latent_dim", "shape", "first", "parameters"),
    [
        (256, (3, 32, 32), 128, 2_328_899),
        (512, (3, 32, 32), 128, 4_426_051),
        (256, (3, 64, 64), 128, 8_644_931),
        (256, (3, 32, 32), 256, 4_581_955),
        (512, (3, 32, 32), 256, 8_776_259),
    ],
)
def test_it_has_the_released_generators_parameters(latent_dim, shape, first, parameters):
    made = Generator(latent_dim, shape, first)
    assert sum(parameter.numel() for parameter in made.parameters()) == parameters


def test_its_weights_have_the_released_names_and_only_the_last_convolution_has_a_bias():
    names = {name.rsplit(".", 1)[0] for name, _ in Generator(8, (3, 8, 8)).named_parameters()}
    assert names == {"l1.0", *(f"conv_blocks.{index}" for index in (0, 2, 3, 6, 7, 9))}
    biased = {n for n, m in Generator(8, (3, 8, 8)).named_modules() if isinstance(m, nn.Conv2d) and m.bias is not None}
    assert biased == {"conv_blocks.9"}


@pytest.mark.parametrize("shape", [(3, 8, 12), (1, 28, 28)])
def test_images_have_the_cards_shape_and_lie_between_0_and_1(shape):
    with torch.no_grad():
        images = Generator(8, shape)(100 * torch.randn(3, 8, generator=torch.Generator().manual_seed(0)))
    assert images.shape == (3, *shape)
    assert 0 <= float(images.min()) < 0.5 < float(images.max()) <= 1


def test_the_last_layer_is_a_sigmoid():
    made = Generator(4, (1, 4, 4)).eval()
    nn.init.zeros_(made.conv_blocks[9].weight)
    nn.init.constant_(made.conv_blocks[9].bias, 1.0986123)  # sigmoid(ln 3) = 3/4
    assert made(torch.zeros(1, 4)).flatten().tolist() == pytest.approx([0.75] * 16)


@pytest.mark.parametrize("shape", [(3, 30, 32), (1, 32, 30), (3, 9, 7)])
def test_other_sides_are_cut_from_the_next_larger_ones(shape):
    made, larger = Generator(8, shape), Generator(8, (shape[0], -(-shape[1] // 4) * 4, -(-shape[2] // 4) * 4))
    larger.load_state_dict(made.state_dict())
    latent = torch.randn(3, 8, generator=torch.Generator().manual_seed(0))
    images = made(latent)
    assert images.shape == (3, *shape)
    assert torch.equal(images, larger(latent)[:, :, : shape[1], : shape[2]])


def test_resetting_draws_every_weight_anew_around_the_released_centres():
    made = Generator(64, (3, 16, 16))
    for parameter in made.parameters():
        nn.init.constant_(parameter, 7.0)
    made.conv_blocks[0].running_mean.fill_(3.0)
    reset_generator(made, torch.Generator().manual_seed(0))
    made.requires_grad_(False)
    layers = [m for m in made.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
    assert len(layers) == 4
    for layer in layers:
        # Within five standard errors.
        assert float(layer.weight.mean()) == pytest.approx(0.0, abs=5 * 0.02 / layer.weight.numel() ** 0.5)
        assert float(layer.weight.std()) == pytest.approx(0.02, rel=5 / (2 * layer.weight.numel()) ** 0.5)
        assert layer.bias is None or not layer.bias.any()
    norms = [m for m in made.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 3
    scales = torch.cat([norm.weight for norm in norms])
    assert float(scales.mean()) == pytest.approx(1.0, abs=5 * 0.02 / len(scales) ** 0.5)
    assert float(scales.std()) == pytest.approx(0.02, rel=5 / (2 * len(scales)) ** 0.5)
    assert not any(norm.bias.any() for norm in norms)
    assert bool((norms[0].running_mean == 3).all())


def test_resetting_draws_from_the_given_stream_alone():
    made, before = [Generator(8, (1, 4, 4)) for _ in range(3)], torch.get_rng_state()
    for module, seed in zip(made, (5, 5, 6), strict=True):
        reset_generator(module, torch.Generator().manual_seed(seed))
    assert torch.equal(made[0].l1[0].weight, made[1].l1[0].weight)
    assert not torch.equal(made[0].l1[0].weight, made[2].l1[0].weight)
    assert torch.equal(before, torch.get_rng_state())
