"""Networks that timm builds."""

from pathlib import Path

import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from support.e2e_kit import bench, own_cache, specs
from torch import nn

from dfkd_bench import api
from dfkd_bench.datasets.cards import DIGITS
from dfkd_bench.errors import DfkdError
from dfkd_bench.hooks.registry import Registry
from dfkd_bench.models import timm_models
from dfkd_bench.models.build import brings_weights, build_model
from dfkd_bench.planning.requests import Request, plan
from dfkd_bench.runs.runner import run_spec
from dfkd_bench.spec import Pair, TeacherRef
from dfkd_bench.teachers.store import TeacherStore
from dfkd_bench.workbench import Workbench

__all__ = ["own_cache"]


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


# --- a network's arguments ---

VIT = "timm/vit_tiny_patch16_224?depth=2&embed_dim=24&img_size=32&num_heads=3&patch_size=8"
COLOR = DIGITS.model_copy(update={"image_shape": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3})


def test_arguments_in_a_name_are_the_networks():
    model = build_model(VIT, COLOR, Registry())
    assert (len(model.blocks), model.embed_dim, model.patch_embed.grid_size) == (2, 24, (4, 4))
    assert str(Pair.parse(f"{VIT}:{VIT}")) == f"{VIT}:{VIT}"


@pytest.mark.parametrize(
    ("text", "value"), [("2", 2), ("0.5", 0.5), ("true", True), ("2,2,6", [2, 2, 6]), ("avg", "avg"), ("1.", "1.")]
)
def test_arguments_are_numbers_truth_values_arrays_or_texts(text, value):
    assert timm_models._split(f"a?b={text}") == ("a", {"b": value})


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("", r"'vit_tiny_patch16_224\?' has arguments that cannot be read: write vit_tiny_patch16_224\?img_size="),
        ("depth", "has arguments that cannot be read"),
        ("depth=", "has arguments that cannot be read"),
        ("patch_size=8&depth=2", r"alphabetical order: vit_tiny_patch16_224\?depth=2&patch_size=8"),
        ("depth=2&depth=3", "each argument once"),
        ("checkpoint_path=a.pth", "sets checkpoint_path, which no name may set"),
        ("num_classes=3&pretrained=true", "sets num_classes, pretrained, which no name may set"),
        ("img_siz=32", r"timm's vit_tiny_patch16_224 cannot be built with \{'img_siz': 32\}: .*img_siz"),
        ("embed_dim=25&num_heads=3", "cannot be built with"),
    ],
)
def test_arguments_that_make_no_network_are_one_sentence(arguments, sentence):
    with pytest.raises(DfkdError, match=sentence) as caught:
        timm_models.build(f"timm/vit_tiny_patch16_224?{arguments}", 10)
    assert "\n" not in str(caught.value)


def test_a_point_in_an_argument_asks_for_no_weights():
    assert not brings_weights("timm/vit_tiny_patch16_224?drop_rate=0.1")
    assert brings_weights("timm/vit_tiny_patch16_224.augreg_in21k?depth=2")


# --- timm's weights: never downloaded here, but found where the hub's cache has them ---

TAGGED = "timm/test_resnet.r160_in1k"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The hub's cache with weights for TAGGED in it, and nothing to be downloaded."""
    snapshot = tmp_path / "models--timm--test_resnet.r160_in1k" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    refs = snapshot.parent.parent / "refs"
    refs.mkdir()
    (refs / "main").write_text("0" * 40)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state = timm.create_model("test_resnet").state_dict()
    save_file(state, snapshot / "model.safetensors")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("timm.models._hub.HF_HUB_CACHE", str(tmp_path), raising=False)
    return state


def test_a_tag_brings_timms_weights_where_a_network_is_to_be_trained(hub):
    registry = Registry()
    card = DIGITS.model_copy(update={"image_shape": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3})
    trained = build_model(TAGGED, card, registry, start=True).state_dict()
    assert torch.equal(trained["layer1.0.conv1.weight"], hub["layer1.0.conv1.weight"])
    assert trained["fc.weight"].shape[0] == 10
    for name, start in ((TAGGED, False), ("timm/test_resnet", True)):
        fresh = build_model(name, card, registry, start=start).state_dict()
        assert not torch.equal(fresh["layer1.0.conv1.weight"], hub["layer1.0.conv1.weight"])


def test_weights_that_cannot_be_downloaded_are_one_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DfkdError, match=r"^timm's weights 'test_resnet.r160_in1k' cannot be loaded \(") as caught:
        timm_models.build(TAGGED, 10, pretrained=True)
    assert "\n" not in str(caught.value)


def test_a_student_with_weights_of_its_own_is_no_longer_without_prior(hub, tmp_path):
    workbench = bench(tmp_path)
    tagged, fresh = (
        run_spec(
            specs(workbench, "noise", "schedule.epochs=1", pair=f"resnet8:{name}")[0],
            workbench.results,
            workbench.store,
        )
        for name in (TAGGED, "timm/test_resnet")
        for spec in specs(workbench, "noise", "schedule.epochs=1", pair=f"resnet8:{name}")
    )
    assert (tagged.status, fresh.status) == ("finished", "finished")
    assert tagged.priors["student"] == "image"
    assert "student" not in fresh.priors


def test_published_weights_come_with_their_normalization(hub):
    state, mean, std = timm_models.published(TAGGED)
    assert all(torch.equal(state[name], tensor) for name, tensor in hub.items())
    config = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    assert (mean, std) == (config.mean, config.std)


def test_a_folder_that_timm_wrote_is_a_teacher_with_its_own_normalization(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    model.pretrained_cfg |= {"mean": (0.25,), "std": (0.125,)}
    timm.models.save_for_hf(model, tmp_path / "mine")
    store = bench(tmp_path / "results").store
    store = TeacherStore(tmp_path / "teachers", store.registry, store.execution)
    teacher = store.import_file(tmp_path / "mine", "timm/test_resnet", "digits")
    assert (teacher.card.mean, teacher.card.std, teacher.card.source) == ((0.25,), (0.125,), "folder mine")
    # Its accuracy is that of images normalized in its own way.
    folder = next(folder for folder, _ in store.cards())
    assert store.verify(folder)[1] == teacher.card.accuracy


def test_a_teacher_normalizes_in_its_own_way_in_a_run_too(tmp_path, monkeypatch):
    seen = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = timm.create_model("test_resnet", num_classes=10, in_chans=1)
    model.pretrained_cfg |= {"mean": (0.25,), "std": (0.125,)}
    timm.models.save_for_hf(model, tmp_path / "mine")
    workbench = Workbench.make(
        results=tmp_path / "results", teachers=tmp_path / "teachers", device="cpu", precision="fp32"
    )
    monkeypatch.setattr(
        "dfkd_baselines.noise.Noise.__init__",
        lambda self, options, context: (
            seen.append((context.teacher.mean.item(), context.student.mean.item())),
            super(type(self), self).__init__(options, context),
        )[1],
    )
    (spec,) = api.plan(
        workbench,
        ["noise"],
        ["timm/test_resnet:resnet8"],
        overrides=["schedule.epochs=1", "schedule.steps_per_epoch=1", "synthesizer.batch_size=8"],
        teacher=tmp_path / "mine",
    )
    assert run_spec(spec, workbench.results, workbench.store).status == "finished"
    assert seen == [(0.25, pytest.approx(DIGITS.mean[0]))]


def test_without_batchnorm_the_methods_that_need_it_refuse_and_the_others_run(tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        timm.models.save_for_hf(
            timm.create_model("test_efficientnet_gn", num_classes=10, in_chans=1), tmp_path / "mine"
        )
    workbench = Workbench.make(
        results=tmp_path / "results", teachers=tmp_path / "teachers", device="cpu", precision="fp32"
    )
    refused, runs = [], []
    for method in workbench.registry.provided("method"):
        request = Request(
            [method], [Pair.parse("timm/test_efficientnet_gn:resnet8")], "digits", TeacherRef(sha256="a" * 64)
        )
        try:
            plan(request, DIGITS, workbench.registry)
            runs.append(method)
        except DfkdError as error:
            what = "attention blocks as timm builds them" if method == "vit-inversion" else "BatchNorm layers"
            assert f"needs {what} in the teacher, and timm/test_efficientnet_gn has none" in str(error)
            refused.append(method)
    needy = ["cmi", "csd", "dda", "dda-released", "deepinversion", "dfq", "fast", "gapssg", "nayer"]
    assert sorted(refused) == [*needy, "spaceshipnet", "ta-dfkd", "vit-inversion"]
    assert set(runs) >= {"dafl", "dfad", "zskt", "noise", "one-image", "real-data", "scratch"}
    small = ["schedule.epochs=1", "schedule.steps_per_epoch=1", "schedule.rounds_per_epoch=1", "schedule.batch_size=8"]
    for method in ("dafl", "dfad", "zskt"):
        (spec,) = api.plan(
            workbench,
            [method],
            ["timm/test_efficientnet_gn:resnet8"],
            overrides=[*small, "synthesizer.batch_size=8", "synthesizer.width=16"],
            teacher=tmp_path / "mine",
        )
        assert run_spec(spec, workbench.results, workbench.store).status == "finished"
