"""The blocks of the zoo's networks, worked out by hand, and their initial weights."""

import pytest
import torch

from dfkd_bench.models import lenet, mobilenet, resnet, resnet_cifar, shufflenet, vgg, wrn


@torch.no_grad()
def test_wrn_block_of_equal_widths_adds_the_raw_input():
    block = wrn.wrn16_1(10).block1.layer[0].eval()
    block.conv2.weight.zero_()
    x = torch.zeros(1, 16, 1, 1)
    x[0, 0], x[0, 1] = -3.0, 2.0
    out = block(x)
    assert out[0, :3].flatten().tolist() == [-3.0, 2.0, 0.0]


@torch.no_grad()
def test_wrn_block_of_new_width_adds_the_convolved_activation():
    block = wrn.wrn16_1(10).block2.layer[0].eval()
    block.conv2.weight.zero_()
    block.bn1.bias[2] = 1.0
    block.convShortcut.weight.zero_()
    block.convShortcut.weight[0, :3, 0, 0] = torch.tensor([5.0, 7.0, 11.0])
    x = torch.zeros(1, 16, 2, 2)
    x[0, 0], x[0, 1] = -3.0, 2.0
    # ReLU(BN(x)) is 0, 2, 1 in the first three channels (BN's epsilon aside): 5*0 + 7*2 + 11*1.
    # From the raw input it would be -15 + 14 + 0, from a second path without BN 14.
    out = block(x)
    assert out.shape == (1, 32, 1, 1)
    assert out[0, 0].item() == pytest.approx(25.0, abs=1e-3)
    assert out[0, 1].item() == 0.0


@pytest.mark.parametrize(
    ("builder", "path", "std"),
    [
        (wrn.wrn40_2, "block3.layer.1.conv1", 0.04167),  # sqrt(2 / (9 * 128))
        (vgg.vgg8, "block3.0", 0.02083),  # sqrt(2 / (9 * 512))
        (vgg.vgg8, "classifier", 0.01),
        (resnet_cifar.resnet8x4, "layer3.0.conv1", 0.02946),  # sqrt(2 / (9 * 256))
        (mobilenet.mobilenetv2, "features.18.0", 0.03953),  # sqrt(2 / 1280)
        (mobilenet.mobilenetv2_half, "conv2.0", 0.03953),
        (mobilenet.mobilenetv2_half, "classifier.0", 0.01),
    ],
)
def test_initial_weights(builder, path, std):
    torch.manual_seed(0)
    module = builder(100).get_submodule(path)
    assert module.weight.std().item() == pytest.approx(std, rel=0.03)
    assert module.bias is None or not module.bias.any()


@torch.no_grad()
def test_shuffle_interleaves_the_halves():
    x = torch.tensor([0.0, 1.0, 2.0, 10.0, 11.0, 12.0]).reshape(1, 6, 1, 1)
    assert shufflenet._shuffle(x).flatten().tolist() == [0.0, 10.0, 1.0, 11.0, 2.0, 12.0]


@torch.no_grad()
def test_shufflenet_block_keeps_the_first_half():
    block = shufflenet.shufflenetv2(10).layer1[1].eval()
    block.conv3.weight.zero_()
    x = torch.arange(116.0).reshape(1, 116, 1, 1)
    assert block(x).flatten().tolist() == [channel / 2 if channel % 2 == 0 else 0.0 for channel in range(116)]


@torch.no_grad()
def test_shufflenet_has_no_relu_after_a_depthwise_convolution():
    torch.manual_seed(0)
    model = shufflenet.shufflenetv2(10).eval()
    inputs = {}
    for path in ("layer1.0.conv2", "layer1.0.conv5", "layer1.1.conv3", "layer1.0.conv4", "layer1.1.conv2"):
        model.get_submodule(path).register_forward_pre_hook(
            lambda _, args, path=path: inputs.update({path: args[0].min().item()})
        )
    model(torch.randn(2, 3, 32, 32))
    assert max(inputs["layer1.0.conv2"], inputs["layer1.0.conv5"], inputs["layer1.1.conv3"]) < 0
    assert inputs["layer1.0.conv4"] == inputs["layer1.1.conv2"] == 0


@pytest.mark.parametrize(
    ("builder", "path", "channels", "last", "expected"),
    [
        (resnet.resnet18, "layer1.1", 64, "conv2", [0.0, 2.0]),
        (resnet.resnet50, "layer1.1", 256, "conv3", [0.0, 2.0]),
        (resnet_cifar.resnet20, "layer1.1", 16, "conv2", [0.0, 2.0]),
        (mobilenet.mobilenetv2, "features.3", 24, "conv.2", [-3.0, 2.0]),
        (mobilenet.mobilenetv2_half, "blocks.1.1", 12, "conv.6", [-3.0, 2.0]),
    ],
)
@torch.no_grad()
def test_residual_block_adds_its_input(builder, path, channels, last, expected):
    block = builder(10).get_submodule(path).eval()
    block.get_submodule(last).weight.zero_()
    x = torch.zeros(1, channels, 1, 1)
    x[0, 0], x[0, 1] = -3.0, 2.0
    out = block(x).flatten()
    assert out[:2].tolist() == expected
    assert not out[2:].any()


@pytest.mark.parametrize(
    ("builder", "path", "channels"),
    [(mobilenet.mobilenetv2, "features.2", 16), (mobilenet.mobilenetv2_half, "blocks.1.0", 8)],
)
@torch.no_grad()
def test_mobilenet_block_of_new_width_adds_nothing(builder, path, channels):
    block = builder(10).get_submodule(path).eval()
    block.conv[-2].weight.zero_()
    assert not block(torch.ones(1, channels, 2, 2)).any()


@torch.no_grad()
def test_lenet_by_hand():
    model = lenet.lenet5(2).eval()
    for parameter in model.parameters():
        parameter.zero_()
    model.fc1.bias[0], model.fc1.bias[1] = -3.0, 2.0
    model.fc2.weight[:, :2] = torch.tensor([[5.0, 7.0], [1.0, -1.0]])
    # ReLU leaves 0 and 2 of the two hidden units.
    assert model(torch.ones(1, 1, 32, 32)).tolist() == [[14.0, -2.0]]


@pytest.mark.parametrize("height, expected", [(16, 2), (32, 4), (64, 4), (128, 16)])
@torch.no_grad()
def test_vgg_pools_after_block_3_only_at_64_pixels(height, expected):
    model = vgg.vgg8(10).eval()
    shapes = []
    model.relu4.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape)))
    model(torch.randn(1, 3, height, height))
    assert shapes == [(1, 512, expected, expected)]


@torch.no_grad()
def test_mobilenet_clips_at_six_only_at_full_width():
    torch.manual_seed(0)
    x = 100.0 * torch.randn(2, 3, 32, 32)
    assert mobilenet.mobilenetv2(10).eval().features[0](x).max() == 6.0
    assert mobilenet.mobilenetv2_half(10).eval().conv1(x).max() > 6.0


@pytest.mark.parametrize("depth", [8, 41])
def test_depths_that_make_no_network(depth):
    with pytest.raises(ValueError, match="6n"):
        wrn.WideResNet(depth, 1, 10)
    with pytest.raises(ValueError, match="6n"):
        resnet_cifar.CifarResNet(depth + 1, (16, 16, 32, 64), 10)
