from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from support.kit import (
    make_card,
    make_context,
    make_convnet,
    make_pencil,
    plain_bn_distance,
    plain_cross_entropy,
    plain_kl,
    plain_log_softmax,
    plain_pencil,
    recorder,
    stored,
)
from torch import Tensor, nn

import dfkd_baselines.cmi as module
from dfkd_baselines.cmi import CmiOptions, ContrastiveInversion, contrast_bytes
from dfkd_bench import Network, NetworkFacts, Round

LATER, WARMUP = Round(3, warmup=False), Round(0, warmup=True)
# No padding, no mirroring: a global view is the image.
STILL = make_card(padding=0, flip=False)
CARD = make_card()


def make(card=CARD, nets=make_convnet, seed: int = 0, student: Network | None = None, **options: Any):
    fields = {"batch_size": 4, "steps": 4, "latent_dim": 8, "head_dim": 5, "instance_bank": 40, "negatives": 8}
    context = make_context(card, nets(card, 1), student or nets(card, 2), seed)
    return ContrastiveInversion(CmiOptions(**{**fields, **options}), context)


def watch(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Tensor, ...]]:
    """Each step's loss, images, local and global features, as they come."""
    seen: list[tuple[Tensor, ...]] = []
    monkeypatch.setattr(module, "Best", recorder(seen))
    return seen


def plain_head(head: nn.Module, features: np.ndarray) -> np.ndarray:
    first, _, last = (layer for layer in head.layers)
    w1, b1, w2, b2 = (each.detach().numpy().astype(np.float64) for each in (*first.parameters(), *last.parameters()))
    out = np.maximum(features @ w1.T + b1, 0) @ w2.T + b2
    return out / np.sqrt((out**2).sum(axis=1, keepdims=True))


def plain_contrast(head: nn.Module, features: np.ndarray, old: tuple[np.ndarray, np.ndarray], tau: float) -> float:
    local, glob = (plain_head(head, np.concatenate((features, each))) for each in old)
    losses = -np.diag(plain_log_softmax(local @ glob.T / tau))
    count = len(features)
    return float(losses[:count].mean() + (losses[count:].mean() if len(losses) > count else 0.0))


NOTHING = (np.zeros((0, 3)), np.zeros((0, 3)))


@pytest.mark.parametrize("kind", ["agreement", "all"])
def test_the_loss_is_the_weighted_sum_of_its_pieces(monkeypatch, kind):
    seen = watch(monkeypatch)
    # No box of the whole area fits but a square one, so that the local view is the image too.
    weights = {"bn": 2.0, "oh": 3.0, "adv": 5.0, "cr": 7.0, "cr_tau": 0.3, "adv_kind": kind, "local_area": 1.0}
    made = make(STILL, make_pencil, student=make_pencil(STILL, 11), batch_size=12, steps=1, reset=False, **weights)
    with torch.no_grad():  # so that images differ in more than a shade
        for parameter in made.generator.parameters():
            parameter.normal_(generator=torch.Generator().manual_seed(3))
    head = stored(made.head.state_dict())
    batch = made.synthesize(LATER)
    ((loss, images, local, glob),) = seen
    assert torch.equal(batch.images, images)
    inputs, _, teacher = plain_pencil(made.context.teacher, images)
    student = plain_pencil(made.context.student, images)[2]
    features = inputs.mean(axis=(2, 3))
    np.testing.assert_allclose(local.numpy(), features, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(glob.numpy(), features, rtol=1e-4, atol=1e-5)
    agree = teacher.argmax(axis=1) == student.argmax(axis=1)
    assert 0 < agree.sum() < 12
    divergence = plain_kl(teacher, student) * (agree if kind == "agreement" else 1)
    made.head.load_state_dict(head)  # the step has moved it since
    expected = (
        2 * plain_bn_distance(made.context.teacher, images)
        + 3 * plain_cross_entropy(teacher, batch.targets.numpy())
        - 5 * divergence.sum() / 12
        + 7 * plain_contrast(made.head, features, NOTHING, 0.3)
    )
    assert float(loss) == pytest.approx(expected, rel=1e-4)


def test_remembered_images_take_part_in_the_contrast(monkeypatch):
    seen = watch(monkeypatch)
    alone = {"bn": 0.0, "oh": 0.0, "adv": 0.0, "cr": 1.0, "cr_tau": 0.5, "local_area": 1.0, "steps": 1}
    made = make(STILL, make_pencil, negatives=100, **alone)
    made.synthesize(LATER)
    head, old = stored(made.head.state_dict()), [each.numpy().astype(np.float64) for each in seen[0][2:]]
    made.synthesize(LATER)
    loss, images, *_ = seen[1]
    made.head.load_state_dict(head)
    features = plain_pencil(made.context.teacher, images)[0].mean(axis=(2, 3))
    # The order in which the bank's images come does not change a mean over their rows.
    assert float(loss) == pytest.approx(plain_contrast(made.head, features, tuple(old), 0.5), rel=1e-4)
    assert not np.isclose(float(loss), plain_contrast(made.head, features, NOTHING, 0.5), rtol=1e-2)


def test_the_kept_batch_and_the_remembered_features_are_those_of_the_lowest_loss(monkeypatch):
    seen = watch(monkeypatch)
    # A coarse learning rate, so that the lowest loss is not the last one.
    made = make(lr=0.05, steps=12, cr=0.1)
    batch = made.synthesize(LATER)
    losses = [float(step[0]) for step in seen]
    lowest = int(np.argmin(losses))
    assert 0 < lowest < 11 and len(seen) == 12
    assert torch.equal(batch.images, seen[lowest][1])
    local, glob = made.bank.sample(4, torch.Generator().manual_seed(0))
    assert sorted(local[:, 0].tolist()) == sorted(seen[lowest][2][:, 0].tolist())
    assert sorted(glob[:, 0].tolist()) == sorted(seen[lowest][3][:, 0].tolist())
    assert not torch.equal(seen[lowest][2], seen[lowest][3])


def test_the_bn_distance_and_the_cross_entropy_go_down(monkeypatch):
    seen = watch(monkeypatch)
    make(steps=40, lr=0.01, cr=0.0, adv=0.0, batch_size=8).synthesize(LATER)
    assert float(seen[-1][0]) < 0.7 * float(seen[0][0])


def test_latents_are_optimized_beside_the_generator(monkeypatch):
    made, given = make(steps=3), []
    made.generator.register_forward_pre_hook(lambda _, args: given.append(args[0].detach().clone()))
    made.synthesize(LATER)
    assert [each.shape for each in given] == [(4, 8)] * 3
    assert not torch.equal(given[0], given[1]) and not torch.equal(given[1], given[2])


@pytest.mark.parametrize(
    ("round", "adv", "passes"), [(LATER, 0.5, 16), (WARMUP, 0.5, 0), (LATER, 0.0, 0)], ids=["later", "warmup", "off"]
)
def test_the_adversary_is_off_in_the_warm_up(round, adv, passes):
    made = make(adv=adv)
    ledger = made.context.ledger
    ledger.watch(made.context.student.body, "student")
    ledger.watch(made.context.teacher.body, "teacher")
    with ledger.phase("p") as cost:
        made.synthesize(round)
    # Two views for the teacher, one for the student.
    assert cost.forward == {"generator": 16, "teacher": 32, **({"student": passes} if passes else {})}
    assert cost.forward == cost.backward


def test_a_warm_up_round_may_have_steps_of_its_own(monkeypatch):
    seen = watch(monkeypatch)
    made = make(steps=2, warmup_steps=5)
    for round, steps in ((WARMUP, 5), (LATER, 2)):
        seen.clear()
        made.synthesize(round)
        assert len(seen) == steps


@pytest.mark.parametrize("cr", [0.0, 0.8])
def test_the_head_learns_only_where_there_is_a_contrast(cr):
    # The fault B08 of released code: without the contrast it broke off.
    made = make(cr=cr)
    before = stored(made.head.state_dict())
    batch = made.synthesize(LATER)
    batch.check(CARD.image_shape, CARD.num_classes)
    changed = [not torch.equal(before[name], tensor) for name, tensor in made.head.state_dict().items()]
    assert all(changed) if cr else not any(changed)
    assert len(made.bank) == (4 if cr else 0)


def test_without_the_contrast_the_teacher_sees_one_view():
    made = make(cr=0.0, adv=0.0)
    made.context.ledger.watch(made.context.teacher.body, "teacher")
    with made.context.ledger.phase("p") as cost:
        made.synthesize(LATER)
    assert cost.forward["teacher"] == cost.backward["teacher"] == 16


@pytest.mark.parametrize(("capacity", "lengths"), [(8, [4, 8, 8, 8]), (10, [4, 8, 10, 10]), (3, [3, 3, 3, 3])])
def test_a_bank_that_is_full_or_no_multiple_of_the_batch_does_no_harm(monkeypatch, capacity, lengths):
    # The faults B09 (not a number when exactly full) and B10 (a batch that does not fit breaks off).
    seen = watch(monkeypatch)
    made = make(instance_bank=capacity)
    for length in lengths:
        made.synthesize(LATER).check(CARD.image_shape, CARD.num_classes)
        assert len(made.bank) == length
        assert len(made.bank.sample(8, torch.Generator())[0]) == min(8, length)
    assert len(seen) == 16
    assert all(math.isfinite(float(step[0])) for step in seen)


@pytest.mark.parametrize("negatives", [0, 8])
def test_each_step_draws_as_many_remembered_images_as_asked(monkeypatch, negatives):
    rows = []
    contrast = module.contrastive_loss

    def counting(local: Tensor, glob: Tensor, current: int, tau: float) -> Tensor:
        rows.append((len(local), len(glob), current, tau))
        return contrast(local, glob, current, tau)

    monkeypatch.setattr(module, "contrastive_loss", counting)
    made = make(negatives=negatives, steps=1, cr_tau=0.2)
    for _ in range(4):
        made.synthesize(LATER)
    assert rows == [(4 + n, 4 + n, 4, 0.2) for n in (0, min(4, negatives), min(8, negatives), min(12, negatives))]


def test_each_round_starts_from_fresh_generator_weights():
    weights = []
    for spoil in (False, True):
        made = make()
        made.synthesize(LATER)
        if spoil:
            for parameter in made.generator.parameters():
                nn.init.constant_(parameter, 0.3)
        weights.append(made.synthesize(LATER).images)
    assert torch.equal(*weights)


def test_on_demand_the_generator_goes_on_from_round_to_round():
    made, firsts = make(reset=False, steps=2), []
    made.generator.register_forward_pre_hook(lambda *_: firsts.append(made.generator.l1[0].weight.detach().clone()))
    made.synthesize(LATER)
    after = made.generator.l1[0].weight.detach().clone()
    made.synthesize(LATER)
    assert torch.equal(firsts[2], after)


def test_after_the_warm_up_the_contrast_goes_on_or_as_released_starts_anew():
    lengths, kept = {}, {}
    for restart in (False, True):
        made = make(restart_contrast=restart)
        before: list[dict[str, Tensor]] = []
        lengths[restart] = []
        for each in (WARMUP, WARMUP, LATER, LATER):
            old = stored(made.head.state_dict())
            made.head.register_forward_pre_hook(lambda head, _, to=before: to.append(stored(head.state_dict())))
            del before[:]
            made.synthesize(each)
            lengths[restart].append(len(made.bank))
            if each is LATER and restart not in kept:
                kept[restart] = all(torch.equal(old[name], tensor) for name, tensor in before[0].items())
                moments = [int(state["step"]) for state in made.head_optimizer.state.values()]
                assert set(moments) == {4 if restart else 12}
                # A fresh head is PyTorch's: uniform up to 1 / sqrt(10).
                assert not restart or before[0]["layers.0.weight"].abs().max() <= 10**-0.5
    assert lengths == {False: [4, 8, 12, 16], True: [4, 8, 4, 8]}
    assert kept == {False: True, True: False}


def test_a_run_that_is_broken_off_after_the_warm_up_still_starts_its_contrast_anew():
    made = make(restart_contrast=True)
    made.synthesize(WARMUP)
    other = make(restart_contrast=True, seed=9)
    other.load_state_dict(stored(made.state_dict()))
    for each in (made, other):
        each.context.generator.manual_seed(5)
    one, two = made.synthesize(LATER), other.synthesize(LATER)
    assert torch.equal(one.images, two.images)
    assert len(made.bank) == len(other.bank) == 4
    third = make(restart_contrast=True, seed=9)
    third.load_state_dict(stored(made.state_dict()))
    third.synthesize(LATER)
    assert len(third.bank) == 8  # once, not at every start


@pytest.mark.parametrize("reset", [True, False])
def test_it_goes_on_from_its_state_as_if_nothing_had_happened(reset):
    made = make(instance_bank=6, reset=reset)
    for _ in range(2):
        made.synthesize(LATER)
    other = make(instance_bank=6, reset=reset, seed=9)
    other.load_state_dict(stored(made.state_dict()))
    other.context.generator.set_state(made.context.generator.get_state())
    for _ in range(2):
        one, two = made.synthesize(LATER), other.synthesize(LATER)
        assert torch.equal(one.images, two.images) and torch.equal(one.targets, two.targets)


def test_the_same_seed_gives_the_same_images_and_another_seed_others():
    first, again, other = (make(seed=seed).synthesize(LATER) for seed in (1, 1, 2))
    assert torch.equal(first.images, again.images) and torch.equal(first.targets, again.targets)
    assert not torch.equal(first.images, other.images)


def test_making_it_and_a_round_leave_torchs_own_streams_alone(toy_context):
    before = torch.get_rng_state()
    ContrastiveInversion(CmiOptions(batch_size=4, steps=1, latent_dim=8), toy_context).synthesize(LATER)
    assert torch.equal(before, torch.get_rng_state())


def test_images_keep_the_contract_and_targets_are_sorted():
    batch = make(batch_size=40, steps=1).synthesize(LATER)
    batch.check(CARD.image_shape, CARD.num_classes)
    assert batch.targets.tolist() == sorted(batch.targets.tolist())
    assert set(batch.targets.tolist()) == {0, 1, 2}
    assert not batch.images.requires_grad


def test_what_the_contrast_takes_is_what_its_tensors_take():
    made = make(instance_bank=6, batch_size=4)
    for _ in range(2):
        made.synthesize(LATER)
    rows = made.bank.state_dict()["rows"]
    assert len(rows) == 6
    weights = list(made.head.parameters())
    tensors = [rows, *weights, *(weight.grad for weight in weights)]
    tensors += [state[name] for state in made.head_optimizer.state.values() for name in ("exp_avg", "exp_avg_sq")]
    assert contrast_bytes(10, made.options) == sum(tensor.numel() * tensor.element_size() for tensor in tensors)


FACTS = {  # of the published teachers
    "wrn40_2": NetworkFacts((2704,), (16, 32, 64)),
    "vgg11": NetworkFacts((2752,), None),
    "resnet34": NetworkFacts((8512,), (64, 64, 128, 256)),
    "bare": NetworkFacts((8512,), None),
}


@pytest.mark.parametrize(
    ("teacher", "options", "told"),
    [
        ("wrn40_2", {}, None),
        ("vgg11", {}, None),
        ("resnet34", {"contrast_of": "stage-inputs"}, None),
        ("resnet34", {"cr": 0.0}, None),
        ("resnet34", {"instance_bank": 10}, r"takes up to 1\.1 GiB, for a bank of 10 images"),
        (
            "resnet34",
            {},
            r"3\.7 GiB, .* on 8,512 features; synthesizer\.contrast_of=stage-inputs or a smaller",
        ),
        ("bare", {}, r"8,512 features; a smaller"),
        (
            "resnet34",
            {"contrast_of": "stage-inputs", "instance_bank": 400_000},
            r"takes up to 1\.5 GiB, .*400,000 .* on 512 features; a smaller synthesizer\.instance",
        ),
    ],
)
def test_a_contrast_that_takes_more_than_a_gib_says_so_before_the_run(teacher, options, told):
    found = ContrastiveInversion.warn_with(CmiOptions(**options), FACTS[teacher], CARD)
    assert found is None if told is None else re.search(told, found)


def test_images_are_told_apart_by_every_batchnorms_input_or_as_released_by_the_stages_inputs():
    # Two BatchNorm layers of 4 and 6 channels; the two convolutions are the stages and take 3 and 4.
    assert make().head.layers[0].in_features == 10
    released = make(contrast_of="stage-inputs")
    assert released.head.layers[0].in_features == 7
    released.synthesize(LATER).check(CARD.image_shape, CARD.num_classes)
    assert ContrastiveInversion.requires_with(CmiOptions()) == {"batchnorm"}
    assert ContrastiveInversion.requires_with(CmiOptions(contrast_of="stage-inputs")) == {"batchnorm", "teacher-stages"}
    assert ContrastiveInversion.prior_with(CmiOptions()) == "none"
