"""Networks that timm builds."""

import pytest
import torch
from torch import nn

from dfkd_bench.errors import DfkdError
from dfkd_bench.models import timm_models


@pytest.mark.parametrize(
    ("name", "has_bn"), [("test_resnet", True), ("timm/test_resnet", True), ("test_convnext", False)]
)
@torch.no_grad()
def test_builds(name, has_bn):
    for channels in (3, 1):
        model = timm_models.build(name, 7, channels).eval()
        assert any(isinstance(module, nn.BatchNorm2d) for module in model.modules()) is has_bn
        logits = model(torch.randn(2, channels, 64, 64))
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()


def test_is_timms_own_network():
    import timm

    built = timm_models.build("test_resnet", 7)
    own = timm.create_model("test_resnet", num_classes=7)
    assert type(built) is type(own)
    assert {name: tensor.shape for name, tensor in built.state_dict().items()} == {
        name: tensor.shape for name, tensor in own.state_dict().items()
    }


def test_unknown_name_says_the_nearest():
    with pytest.raises(DfkdError, match=r"^unknown timm model 'resnt18': did you mean .*\bresnet18\b.*\?$"):
        timm_models.build("timm/resnt18", 10)


def test_unknown_name_without_a_near_one_stays_short():
    with pytest.raises(DfkdError, match=r"^unknown timm model 'qqqqqqqq': see timm.list_models\(\) for the names\.$"):
        timm_models.build("qqqqqqqq", 10)


def test_unknown_weight_tag_says_the_nearest():
    with pytest.raises(DfkdError, match=r"^unknown timm weights 'resnet18.a1_in1': did you mean resnet18.a1_in1k\b"):
        timm_models.build("resnet18.a1_in1", 10)


def test_weights_that_do_not_exist():
    with pytest.raises(DfkdError, match=r"^timm has no weights for 'darknet21': build it with pretrained=False"):
        timm_models.build("darknet21", 10, pretrained=True)
