from __future__ import annotations

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

from dfkd_bench import DfkdError
from dfkd_bench.measures.feature_space import timm_features

CPU = torch.device("cpu")
NAME = "test_resnet"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    made = tmp_path_factory.mktemp("network")
    network = timm.create_model(NAME, num_classes=7).eval()
    save_file(network.state_dict(), made / "model.safetensors")
    config = {"architecture": NAME, "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [0.5] * 3}}
    config["pretrained_cfg"]["input_size"] = [3, 32, 32]
    (made / "config.json").write_text(json.dumps(config))
    return made, network


def test_features_are_the_networks_own_of_normalized_images(folder):
    made, network = folder
    images = torch.randint(256, (3, 3, 32, 32), dtype=torch.uint8)
    mean = torch.tensor([0.1, 0.2, 0.3]).view(1, 3, 1, 1)
    with torch.no_grad():
        wanted = network.forward_head(network.forward_features((images / 255 - mean) / 0.5), pre_logits=True)
    assert torch.allclose(timm_features(made, CPU)(images), wanted, atol=1e-5)


def test_gray_images_of_another_size_are_resized(folder):
    features = timm_features(folder[0], CPU)
    plain = torch.full((2, 1, 8, 8), 90, dtype=torch.uint8)
    large = torch.full((2, 3, 32, 32), 90, dtype=torch.uint8)
    assert torch.allclose(features(plain), features(large), atol=1e-4)


def test_what_is_no_network_is_refused(folder, tmp_path):
    with pytest.raises(DfkdError, match=r"no config\.json"):
        timm_features(tmp_path, CPU)
    (tmp_path / "config.json").write_text((folder[0] / "config.json").read_text().replace("test_resnet", "test_vit"))
    save_file(folder[1].state_dict(), tmp_path / "model.safetensors")
    with pytest.raises(DfkdError, match="is no test_vit"):
        timm_features(tmp_path, CPU)
