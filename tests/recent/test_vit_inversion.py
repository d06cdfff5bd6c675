import itertools
import math

import pytest
import torch
from pydantic import ValidationError
from support.kit import make_card, make_context, make_convnet
from support.method_kit import stream
from timm.models import create_model

from dfkd_bench import DfkdError, Network
from dfkd_bench.datasets.cards import CIFAR10
from dfkd_bench.hooks.registry import default_registry
from dfkd_bench.planning.requests import Request, plan
from dfkd_bench.spec import Pair, TeacherRef
from dfkd_bench.stages.base import Round
from dfkd_bench.stages.network import attention_names
from dfkd_bench.stages.seeds import global_stream
from dfkd_recent.vit_inversion import (
    VitInversion,
    VitInversionOptions,
    class_attention,
    density_entropy,
    learning_rate,
    patch_loss,
    patch_similarities,
)

CARD = make_card(side=8, padding=0)


def transformer(**arguments) -> Network:
    """Patches of 2 x 2, so 4 rows of 4; two blocks of two heads."""
    small = {"img_size": 8, "patch_size": 2, "embed_dim": 12, "depth": 2, "num_heads": 2, "num_classes": 3}
    with global_stream(0, torch.device("cpu")):
        body = create_model("vit_tiny_patch16_224", **{**small, **arguments})
    return Network(body, CARD).eval().requires_grad_(False)


def made(teacher=None, card=CARD, **options) -> VitInversion:
    teacher = teacher or transformer()
    settings = VitInversionOptions(**{"batch_size": 5, "steps": 4, **options})
    return VitInversion(settings, make_context(card, teacher, make_convnet(card, 2)))


# --- the prior ---


def test_similarities_of_patches_by_hand():
    patches = torch.tensor([[[2.0, 0.0], [0.0, 3.0], [1.0, 1.0]]])
    half = 1 / math.sqrt(2)
    wanted = [1, 0, half, 0, 1, half, half, half, 1]
    assert patch_similarities(patches)[0].tolist() == pytest.approx(wanted, abs=1e-6)


def test_the_entropy_by_the_trapezoid_rule():
    values = torch.tensor([[0.0, 0.2, 0.3, 0.9], [0.1, 0.1, 0.5, 0.7]])
    h = 0.1

    def entropy(row: list[float]) -> float:
        points = [0.9 * index / 9 for index in range(10)]
        density = [
            sum(math.exp(-(((point - value) / h) ** 2) / 2) for value in row) / (4 * h * math.sqrt(2 * math.pi)) + 1e-4
            for point in points
        ]
        heights = [-each * math.log(each) for each in density]
        return sum(0.1 * (a + b) / 2 for a, b in itertools.pairwise(heights))

    wanted = [entropy(row) for row in values.tolist()]
    assert density_entropy(values, h).tolist() == pytest.approx(wanted, rel=1e-4)


def test_the_entropy_of_a_normal_distribution_is_near_its_closed_form():
    # 200,000 values are smooth at a width of 0.05: the estimate's variance is 0.2^2 + 0.05^2.
    values = 0.2 * torch.randn(1, 200_000, generator=stream()).clamp(-3.5, 3.5)
    wanted = 0.5 * math.log(2 * math.pi * math.e * (0.2**2 + 0.05**2))
    assert density_entropy(values, 0.05).item() == pytest.approx(wanted, abs=0.02)


def test_patches_that_differ_have_the_lower_loss():
    alike = torch.ones(2, 9, 6) + 1e-3 * torch.randn(2, 9, 6, generator=stream())
    apart = torch.randn(2, 9, 6, generator=stream())
    far = [patch_loss([blocks], 0.05, 4096, stream()).item() for blocks in (alike, apart)]
    # Compared on one scale, or the nearly equal ones would be spread over the ten points as well.
    both = patch_similarities(torch.cat((alike, apart)))
    one, other = density_entropy(both, 0.05).view(2, 2).mean(dim=1).tolist()
    assert other > one
    assert all(math.isfinite(each) for each in far)
    whole = patch_loss([apart, apart], 0.05, 4096, stream()).item()
    assert whole == pytest.approx(2 * far[1])  # a sum over blocks


def test_of_many_pairs_some_are_drawn():
    patches = [torch.randn(2, 30, 6, generator=stream())]
    whole = patch_loss(patches, 0.05, 900, stream()).item()
    drawn = {round(patch_loss(patches, 0.05, 400, stream(seed)).item(), 6) for seed in range(3)}
    assert len(drawn) == 3
    assert all(each == pytest.approx(whole, abs=0.3) for each in drawn)


def test_the_prior_reads_the_attentions_weighted_values_without_the_class_token():
    one = made()
    name = one._attention[0]
    images = torch.rand(2, 3, 8, 8, generator=stream())
    seen = one.context.teacher.observe(images, inputs=[f"{name}.proj"], maps=[f"{name}.qkv"])
    query, key, value = seen.maps[f"{name}.qkv"].view(2, 17, 3, 2, 6).permute(2, 0, 3, 1, 4)
    weighted = (query @ key.transpose(2, 3) / math.sqrt(6)).softmax(dim=-1) @ value
    found = one._patches(name, seen.inputs[f"{name}.proj"])
    assert torch.allclose(found, weighted.mean(dim=1)[:, 1:], atol=1e-5)


# --- the schedule ---


def test_the_learning_rate_rises_and_falls():
    rates = [learning_rate(step, 10, 0.2) for step in range(10)]
    assert rates[:3] == pytest.approx([0.5, 1.0, 1.0])
    assert rates[6] == pytest.approx(0.5)
    assert rates[9] == pytest.approx((1 + math.cos(math.pi * 7 / 8)) / 2)


def test_the_variations_goal_grows_with_the_root_of_the_images_values():
    quarter = made(tv_goal=(2500.0, 2500.0))._goal(torch.zeros(8, 3, 224, 224))
    assert quarter.item() == pytest.approx(1250)


# --- sparse patches ---


def test_the_attention_of_the_class_token_by_hand():
    # Two heads; the class token's query meets the keys 0, ln 2, ln 4 and 0, 0, ln 2 at width 1.
    query = torch.tensor([[[[1.0], [9.0], [9.0]], [[1.0], [9.0], [9.0]]]])
    keys = [[0.0, math.log(2), math.log(4)], [0.0, 0.0, math.log(2)]]
    found = class_attention(query, torch.tensor([keys])[..., None], 1)
    assert found[0].tolist() == pytest.approx([(2 / 7 + 1 / 4) / 2, (4 / 7 + 1 / 2) / 2])
    # Without a class token all look.
    flat = class_attention(torch.zeros(1, 1, 4, 2), torch.ones(1, 1, 4, 2), 0)
    assert flat[0].tolist() == pytest.approx([0.25] * 4)


def test_dropped_patches_have_no_say_and_the_others_keep_their_places():
    one = made(sparse_at=[0.5])
    live = torch.tensor([[0, 5, 10, 15]]).expand(2, -1)
    images = torch.rand(2, 3, 8, 8, generator=stream(), requires_grad=True)
    with one._only(live):
        logits = one.context.teacher(images)
    (slope,) = torch.autograd.grad(logits.square().sum(), images)
    touched = slope.abs().sum(dim=(0, 1)).reshape(4, 2, 4, 2).sum(dim=(1, 3)) > 0
    assert torch.equal(touched, torch.eye(4, dtype=torch.bool))
    assert not torch.allclose(logits, one.context.teacher(images))
    # All patches, by their numbers: as if nothing had been gathered.
    with one._only(torch.arange(16).expand(2, -1)):
        assert torch.equal(one.context.teacher(images), one.context.teacher(images))


def test_the_hook_is_gone_afterwards():
    one = made(sparse_at=[0.5])
    images = torch.rand(2, 3, 8, 8, generator=stream())
    before = one.context.teacher(images)
    one.synthesize(Round(0, warmup=False))
    assert torch.equal(one.context.teacher(images), before)


def test_live_patches_move_with_the_pixels():
    card = make_card(side=8, padding=0, flip=True)
    one = made(card=card, sparse_at=[0.5], jitter=0.4)
    numbers = one._spread(torch.arange(16.0).expand(1, -1))
    pixels = numbers.expand(1, 3, 8, 8).clone()
    seen = set()
    for _ in range(20):
        moved, live = one._view(pixels, torch.tensor([[6]]), 0)
        row, column = divmod(int(live), 4)
        # The pixel in the middle of the place shows the patch that went there.
        assert moved[0, 0, 2 * row + 1, 2 * column + 1] == 6
        seen.add(int(live))
    assert len(seen) > 3


def test_the_least_heeded_patches_are_dropped():
    one = made(sparse_at=[0.5], sparse_drop=0.3)
    pixels = torch.randn(3, 3, 8, 8, generator=stream())
    everything = torch.arange(16).expand(3, -1)
    live = one._dropped(pixels, everything)
    assert live.shape == (3, 11)  # floor(0.7 x 16)
    teacher, name = one.context.teacher, one._attention[-1]
    seen = teacher.observe(pixels * teacher.std + teacher.mean, maps=[f"{name}.qkv"])
    query, key, _ = seen.maps[f"{name}.qkv"].view(3, 17, 3, 2, 6).permute(2, 0, 3, 1, 4)
    heeded = (query[:, :, 0, None] @ key.transpose(2, 3) / math.sqrt(6)).softmax(dim=-1).mean(dim=1)[:, 0, 1:]
    for index in range(3):
        assert live[index].tolist() == sorted(heeded[index].argsort(descending=True)[:11].tolist())


def test_dropped_patches_end_in_the_mean_color():
    one = made(sparse_at=[0.25, 0.5], sparse_drop=0.5)
    batch = one.synthesize(Round(0, warmup=False))
    mean = torch.tensor(CARD.mean).view(3, 1, 1, 1, 1)
    patches = batch.images.view(5, 3, 4, 2, 4, 2).permute(0, 1, 2, 4, 3, 5).flatten(4)
    flat = (patches - mean[None, :, 0]).abs().amax(dim=(1, 4)) < 1e-6
    assert flat.flatten(1).sum(dim=1).tolist() == [12] * 5


# --- what it refuses ---


def test_a_network_without_attention_is_refused_at_planning_and_by_the_stage():
    request = Request(
        ["vit-inversion"], [Pair.parse("resnet8:resnet8")], "cifar10", TeacherRef(sha256="0" * 64), "paper"
    )
    with pytest.raises(DfkdError, match="needs attention blocks as timm builds them in the teacher, and resnet8"):
        plan(request, CIFAR10, default_registry())
    with pytest.raises(DfkdError, match="needs a transformer, and _ConvNet is none"):
        made(make_convnet(CARD, 1))


def test_sparse_patches_need_blocks_that_see_all_of_them():
    with global_stream(0, torch.device("cpu")):
        body = create_model(
            "swin_tiny_patch4_window7_224", img_size=16, patch_size=2, window_size=4, embed_dim=12,
            depths=(1, 1), num_heads=(2, 2), num_classes=3,
        )  # fmt: skip
    card = make_card(side=16, padding=0)
    teacher = Network(body, card).eval().requires_grad_(False)
    assert len(attention_names(body)) == 2
    batch = made(teacher, card, steps=1).synthesize(Round(0, warmup=False))
    assert batch.images.shape == (5, 3, 16, 16)
    with pytest.raises(DfkdError, match=r"as SwinTransformer does not: set synthesizer.sparse_at=\[\]"):
        made(teacher, card, sparse_at=[0.5])


@pytest.mark.parametrize("parts", [[0.5, 0.2], [0.0], [1.0], [0.5, 0.5]])
def test_parts_in_order(parts):
    with pytest.raises(ValidationError, match="in rising order"):
        VitInversionOptions(sparse_at=parts)
