"""The networks of the zoo: counts, names, shapes. Every expected number is written out, none is taken from a model."""

import re

import pytest
import torch
from torch import nn

from dfkd_bench.models import lenet, mobilenet, resnet, resnet_cifar, shufflenet, vgg, wrn

# Name: builder; parameters for 10, 100 and 200 classes; BN layers; sum of their channels; state_dict entries.
COUNTS = {
    "wrn16_1": (wrn.wrn16_1, (175_066, 180_916, 187_416), 13, 464, 82),
    "wrn16_2": (wrn.wrn16_2, (691_674, 703_284, 716_184), 13, 912, 83),
    "wrn40_1": (wrn.wrn40_1, (563_930, 569_780, 576_280), 37, 1360, 226),
    "wrn40_2": (wrn.wrn40_2, (2_243_546, 2_255_156, 2_268_056), 37, 2704, 227),
    "resnet18": (resnet.resnet18, (11_173_962, 11_220_132, 11_271_432), 20, 4800, 122),
    "resnet34": (resnet.resnet34, (21_282_122, 21_328_292, 21_379_592), 36, 8512, 218),
    "resnet50": (resnet.resnet50, (23_520_842, 23_705_252, 23_910_152), 53, 26_560, 320),
    "vgg8": (vgg.vgg8, (3_918_858, 3_965_028, 4_016_328), 5, 1472, 37),
    "vgg11": (vgg.vgg11, (9_231_114, 9_277_284, 9_328_584), 8, 2752, 58),
    "vgg13": (vgg.vgg13, (9_416_010, 9_462_180, 9_513_480), 10, 2944, 72),
    "vgg16": (vgg.vgg16, (14_728_266, 14_774_436, 14_825_736), 13, 4224, 93),
    "vgg19": (vgg.vgg19, (20_040_522, 20_086_692, 20_137_992), 16, 5504, 114),
    "mobilenetv2": (mobilenet.mobilenetv2, (2_236_682, 2_351_972, 2_480_072), 52, 17_056, 314),
    "mobilenetv2_half": (mobilenet.mobilenetv2_half, (697_546, 812_836, 940_936), 53, 9184, 320),
    "shufflenetv2": (shufflenet.shufflenetv2, (1_263_278, 1_355_528, 1_458_028), 56, 8090, 338),
    "resnet8": (resnet_cifar.resnet8, (78_042, 83_892, 90_392), 9, 336, 56),
    "resnet20": (resnet_cifar.resnet20, (272_474, 278_324, 284_824), 21, 784, 128),
    "resnet32": (resnet_cifar.resnet32, (466_906, 472_756, 479_256), 33, 1232, 200),
    "resnet56": (resnet_cifar.resnet56, (855_770, 861_620, 868_120), 57, 2128, 344),
    "resnet110": (resnet_cifar.resnet110, (1_730_714, 1_736_564, 1_743_064), 111, 4144, 668),
    "resnet8x4": (resnet_cifar.resnet8x4, (1_210_410, 1_233_540, 1_259_240), 10, 1376, 62),
    "resnet32x4": (resnet_cifar.resnet32x4, (7_410_730, 7_433_860, 7_459_560), 34, 4960, 206),
    "lenet5": (lenet.lenet5, (61_706, 69_356, 77_856), 0, 0, 10),
    "lenet5_half": (lenet.lenet5_half, (15_738, 19_608, 23_908), 0, 0, 10),
}
BUILDERS = {name: row[0] for name, row in COUNTS.items()}

# Name: channels and side of each stage's map at 32 pixels, and the width of the penultimate feature.
THIN = [(16, 32), (32, 16), (64, 8)]
WIDE = [(64, 32), (128, 16), (256, 8)]
RESNET = [(64, 32), (128, 16), (256, 8), (512, 4)]
VGG = [(64, 32), (128, 16), (256, 8), (512, 4), (512, 4)]
STAGES = {
    "wrn16_1": (THIN, 64),
    "wrn16_2": ([(32, 32), (64, 16), (128, 8)], 128),
    "wrn40_1": (THIN, 64),
    "wrn40_2": ([(32, 32), (64, 16), (128, 8)], 128),
    "resnet18": (RESNET, 512),
    "resnet34": (RESNET, 512),
    "resnet50": ([(256, 32), (512, 16), (1024, 8), (2048, 4)], 2048),
    "vgg8": (VGG, 512),
    "vgg11": (VGG, 512),
    "vgg13": (VGG, 512),
    "vgg16": (VGG, 512),
    "vgg19": (VGG, 512),
    "mobilenetv2": ([(16, 16), (24, 8), (32, 4), (96, 2), (320, 1)], 1280),
    "mobilenetv2_half": ([(12, 16), (16, 8), (48, 4), (160, 2)], 1280),
    "shufflenetv2": ([(116, 16), (232, 8), (464, 4)], 1024),
    "resnet8": (THIN, 64),
    "resnet20": (THIN, 64),
    "resnet32": (THIN, 64),
    "resnet56": (THIN, 64),
    "resnet110": (THIN, 64),
    "resnet8x4": (WIDE, 256),
    "resnet32x4": (WIDE, 256),
    "lenet5": ([(6, 28), (16, 10), (120, 1)], 84),
    "lenet5_half": ([(3, 28), (8, 10), (60, 1)], 42),
}

# These put one more convolution (with BN and ReLU) or only a BN and a ReLU between the last stage and the pooling.
CONVOLVED_AFTER = {"mobilenetv2": 1280, "mobilenetv2_half": 1280, "shufflenetv2": 1024}
BN_AFTER = {"wrn16_1", "wrn16_2", "wrn40_1", "wrn40_2"}


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_counts(name):
    builder, expected, bn_layers, bn_channels, entries = COUNTS[name]
    with torch.device("meta"):
        models = [builder(classes) for classes in (10, 100, 200)]
    assert tuple(parameters(model) for model in models) == expected
    norms = [module for module in models[0].modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == bn_layers
    assert sum(norm.num_features for norm in norms) == bn_channels
    assert len(models[0].state_dict()) == entries


@pytest.mark.parametrize("name", COUNTS)
def test_docstring_says_the_count(name):
    builder, expected, *_ = COUNTS[name]
    assert int(re.search(r"([\d,]+) parameters", builder.__doc__)[1].replace(",", "")) == expected[0]


def bn(prefix, width):
    names = ("weight", "bias", "running_mean", "running_var")
    return {f"{prefix}.{name}": (width,) for name in names} | {f"{prefix}.num_batches_tracked": ()}


def conv_bias(prefix, out_channels, in_channels):
    return {f"{prefix}.weight": (out_channels, in_channels, 3, 3), f"{prefix}.bias": (out_channels,)}


def wrn_block(prefix, in_channels, out_channels):
    return {
        **bn(f"{prefix}.bn1", in_channels),
        f"{prefix}.conv1.weight": (out_channels, in_channels, 3, 3),
        **bn(f"{prefix}.bn2", out_channels),
        f"{prefix}.conv2.weight": (out_channels, out_channels, 3, 3),
    }


def resnet_block(prefix, in_channels, out_channels):
    return {
        f"{prefix}.conv1.weight": (out_channels, in_channels, 3, 3),
        **bn(f"{prefix}.bn1", out_channels),
        f"{prefix}.conv2.weight": (out_channels, out_channels, 3, 3),
        **bn(f"{prefix}.bn2", out_channels),
    }


WRN40_2_NAMES = {
    "conv1.weight": (16, 3, 3, 3),
    **wrn_block("block1.layer.0", 16, 32),
    "block1.layer.0.convShortcut.weight": (32, 16, 1, 1),
    **wrn_block("block1.layer.1", 32, 32),
    **wrn_block("block1.layer.2", 32, 32),
    **wrn_block("block1.layer.3", 32, 32),
    **wrn_block("block1.layer.4", 32, 32),
    **wrn_block("block1.layer.5", 32, 32),
    **wrn_block("block2.layer.0", 32, 64),
    "block2.layer.0.convShortcut.weight": (64, 32, 1, 1),
    **wrn_block("block2.layer.1", 64, 64),
    **wrn_block("block2.layer.2", 64, 64),
    **wrn_block("block2.layer.3", 64, 64),
    **wrn_block("block2.layer.4", 64, 64),
    **wrn_block("block2.layer.5", 64, 64),
    **wrn_block("block3.layer.0", 64, 128),
    "block3.layer.0.convShortcut.weight": (128, 64, 1, 1),
    **wrn_block("block3.layer.1", 128, 128),
    **wrn_block("block3.layer.2", 128, 128),
    **wrn_block("block3.layer.3", 128, 128),
    **wrn_block("block3.layer.4", 128, 128),
    **wrn_block("block3.layer.5", 128, 128),
    **bn("bn1", 128),
    "fc.weight": (10, 128),
    "fc.bias": (10,),
}

WRN16_1_NAMES = {
    "conv1.weight": (16, 3, 3, 3),
    **wrn_block("block1.layer.0", 16, 16),
    **wrn_block("block1.layer.1", 16, 16),
    **wrn_block("block2.layer.0", 16, 32),
    "block2.layer.0.convShortcut.weight": (32, 16, 1, 1),
    **wrn_block("block2.layer.1", 32, 32),
    **wrn_block("block3.layer.0", 32, 64),
    "block3.layer.0.convShortcut.weight": (64, 32, 1, 1),
    **wrn_block("block3.layer.1", 64, 64),
    **bn("bn1", 64),
    "fc.weight": (10, 64),
    "fc.bias": (10,),
}

RESNET34_NAMES = {
    "conv1.weight": (64, 3, 3, 3),
    **bn("bn1", 64),
    **resnet_block("layer1.0", 64, 64),
    **resnet_block("layer1.1", 64, 64),
    **resnet_block("layer1.2", 64, 64),
    **resnet_block("layer2.0", 64, 128),
    "layer2.0.shortcut.0.weight": (128, 64, 1, 1),
    **bn("layer2.0.shortcut.1", 128),
    **resnet_block("layer2.1", 128, 128),
    **resnet_block("layer2.2", 128, 128),
    **resnet_block("layer2.3", 128, 128),
    **resnet_block("layer3.0", 128, 256),
    "layer3.0.shortcut.0.weight": (256, 128, 1, 1),
    **bn("layer3.0.shortcut.1", 256),
    **resnet_block("layer3.1", 256, 256),
    **resnet_block("layer3.2", 256, 256),
    **resnet_block("layer3.3", 256, 256),
    **resnet_block("layer3.4", 256, 256),
    **resnet_block("layer3.5", 256, 256),
    **resnet_block("layer4.0", 256, 512),
    "layer4.0.shortcut.0.weight": (512, 256, 1, 1),
    **bn("layer4.0.shortcut.1", 512),
    **resnet_block("layer4.1", 512, 512),
    **resnet_block("layer4.2", 512, 512),
    "linear.weight": (10, 512),
    "linear.bias": (10,),
}

VGG11_NAMES = {
    **conv_bias("block0.0", 64, 3),
    **bn("block0.1", 64),
    **conv_bias("block1.0", 128, 64),
    **bn("block1.1", 128),
    **conv_bias("block2.0", 256, 128),
    **bn("block2.1", 256),
    **conv_bias("block2.3", 256, 256),
    **bn("block2.4", 256),
    **conv_bias("block3.0", 512, 256),
    **bn("block3.1", 512),
    **conv_bias("block3.3", 512, 512),
    **bn("block3.4", 512),
    **conv_bias("block4.0", 512, 512),
    **bn("block4.1", 512),
    **conv_bias("block4.3", 512, 512),
    **bn("block4.4", 512),
    "classifier.weight": (10, 512),
    "classifier.bias": (10,),
}


@pytest.mark.parametrize(
    ("builder", "expected"),
    [
        pytest.param(wrn.wrn40_2, WRN40_2_NAMES, id="wrn40_2"),
        pytest.param(wrn.wrn16_1, WRN16_1_NAMES, id="wrn16_1"),
        pytest.param(resnet.resnet34, RESNET34_NAMES, id="resnet34"),
        pytest.param(vgg.vgg11, VGG11_NAMES, id="vgg11"),
    ],
)
def test_published_checkpoints_names_and_shapes(builder, expected):
    with torch.device("meta"):
        state = builder(10).state_dict()
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == expected


@pytest.mark.parametrize(
    ("builder", "present", "absent"),
    [
        (resnet.resnet50, {"layer1.0.conv3.weight", "layer1.0.bn3.bias", "layer1.0.shortcut.1.weight"}, set()),
        (
            mobilenet.mobilenetv2_half,
            {"conv1.0.weight", "conv1.1.bias", "blocks.0.0.conv.0.weight", "blocks.5.2.conv.7.weight"}
            | {"conv2.0.weight", "conv2.1.weight", "classifier.0.weight"},
            {"blocks.5.2.conv.2.weight"},
        ),
        (
            mobilenet.mobilenetv2,
            {"features.0.0.weight", "features.1.conv.0.0.weight", "features.1.conv.1.weight", "features.1.conv.2.bias"}
            | {"features.2.conv.2.weight", "features.17.conv.3.weight", "features.18.1.weight", "classifier.1.bias"},
            {"features.1.conv.3.weight"},
        ),
        (resnet_cifar.resnet8x4, {"layer1.0.downsample.0.weight", "layer3.0.downsample.1.bias", "fc.bias"}, set()),
        (resnet_cifar.resnet8, {"layer2.0.downsample.0.weight"}, {"layer1.0.downsample.0.weight"}),
    ],
)
def test_more_names(builder, present, absent):
    with torch.device("meta"):
        names = set(builder(10).state_dict())
    assert present <= names
    assert not absent & names


def sizes(name):
    return (16, 32, 64) if name.startswith("wrn") else (32, 64)


@pytest.mark.parametrize("name", COUNTS)
@torch.no_grad()
def test_runs_on_small_images(name):
    torch.manual_seed(0)
    for channels in (3, 1):
        model = BUILDERS[name](7, channels).eval()
        for size in sizes(name):
            logits = model(torch.randn(2, channels, size, size))
            assert logits.shape == (2, 7)
            assert logits.isfinite().all()
            assert not torch.equal(logits[0], logits[1])


@pytest.mark.parametrize("name", COUNTS)
@torch.no_grad()
def test_stages_and_penultimate_feature(name):
    torch.manual_seed(0)
    channels = 1 if name.startswith("lenet") else 3
    model = BUILDERS[name](7, channels).eval()
    calls, linears = [], []
    names = {module: path for path, module in model.named_modules()}

    def record(module, _, output):
        calls.append((names[module], module, output))

    def record_linear(module, inputs):
        linears.append((module, inputs[0]))

    for module in names:
        module.register_forward_hook(record)
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(record_linear)
    logits = model(torch.randn(2, channels, 32, 32))

    maps = {path: output for path, _, output in calls}
    shapes, feature_width = STAGES[name]
    assert [tuple(maps[stage].shape) for stage in model.stages] == [(2, width, side, side) for width, side in shapes]

    classifier, feature = linears[-1]
    assert feature.shape == (2, feature_width)
    torch.testing.assert_close(classifier(feature), logits)

    # What follows the last stage is spatial only where the network itself has a tail, and then only that tail.
    order = [path for path, _, _ in calls]
    later = calls[order.index(model.stages[-1]) + 1 :]
    after = [(module, output) for _, module, output in later if output.ndim == 4 and not list(module.children())]
    kinds = [type(module) for module, _ in after]
    if name in BN_AFTER:
        assert kinds == [nn.BatchNorm2d]
    elif name in CONVOLVED_AFTER:
        assert kinds[:2] == [nn.Conv2d, nn.BatchNorm2d]
        assert kinds.count(nn.Conv2d) == kinds.count(nn.BatchNorm2d) == 1
        assert {output.shape[1] for _, output in after} == {CONVOLVED_AFTER[name]}
    else:
        assert after == []
        assert all(maps[stage].min() >= 0 for stage in model.stages)
        last = maps[model.stages[-1]]
        if not name.startswith("lenet"):  # LeNet's penultimate feature is one linear layer further.
            torch.testing.assert_close(feature, last.mean((2, 3)))
