import math

import pytest
import torch
from support.kit import stored
from support.method_kit import AGREEMENT, Fixed, bn_input, make_card, make_context, make_network, passes, snapshot
from torch import nn
from torch.nn import functional as F

from dfkd_baselines.csd import (
    AuxiliaryHead,
    CsdOptions,
    CustomizedInversion,
    auxiliary_loss,
)
from dfkd_bench.blocks.rotation import quarter_turns
from dfkd_bench.stages.bank import SyntheticBatch
from dfkd_bench.stages.base import Round

WARMUP, MAIN = Round(0, warmup=True), Round(1, warmup=False)


def synthesizer(context=None, **options) -> CustomizedInversion:
    small = {"batch_size": 6, "warmup_batch_size": 4, "latent_dim": 5, "steps": 3, "warmup_steps": 2}
    return CustomizedInversion(CsdOptions(**{**small, **options}), context or make_context())


def some_batch(count: int = 5, seed: int = 7) -> SyntheticBatch:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (count,), generator=generator)
    return SyntheticBatch(torch.rand(count, 3, 8, 8, generator=generator), targets)


def test_all_four_turns_of_the_first_image_come_before_those_of_the_second():
    images = torch.tensor([[[[1, 2], [3, 4]]], [[[5, 6], [7, 8]]]])
    turned, turns = quarter_turns(images)
    assert turned[:, 0].tolist() == [
        [[1, 2], [3, 4]],
        [[2, 4], [1, 3]],
        [[4, 3], [2, 1]],
        [[3, 1], [4, 2]],
        [[5, 6], [7, 8]],
        [[6, 8], [5, 7]],
        [[8, 7], [6, 5]],
        [[7, 5], [8, 6]],
    ]
    assert turns.tolist() == [0, 1, 2, 3, 0, 1, 2, 3]


def test_the_auxiliary_label_is_four_times_the_class_plus_the_turn():
    # Two classes, so eight labels. Image 0 is of class 1, image 1 of class 0.
    labels = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3])
    features = math.log(7) * F.one_hot(labels, 8).float()
    turns = torch.tensor([0, 1, 2, 3, 0, 1, 2, 3])
    # The right label has 7 of 14 parts.
    loss = auxiliary_loss(nn.Identity(), features, torch.tensor([1, 0]), turns)
    assert loss.item() == pytest.approx(math.log(2))


def head_of_best_direction(sign: float, *, normalize: bool) -> AuxiliaryHead:
    """Ten classes; whatever comes in, its logits point the surest way to label 0, or the surest way from it."""
    head = AuxiliaryHead(4, 10, normalize)
    with torch.no_grad():
        head.layers[2].weight.zero_()
        head.layers[2].bias.fill_(-1000.0 * sign / 40)
        head.layers[2].bias[0] += 1000.0 * sign
    return head


@pytest.mark.parametrize(("sign", "bound"), [(1.0, 2.719), (-1.0, 4.686)])
def test_unit_logits_bound_the_auxiliary_loss(sign, bound):
    # a^2 + 39 b^2 = 1 with a = -39 b: ln(1 + 39 exp(-+ sqrt(40 / 39))) = 2.719 and 4.686.
    head = head_of_best_direction(sign, normalize=True)
    loss = F.cross_entropy(head(torch.rand(3, 4)), torch.zeros(3, dtype=torch.int64))
    assert loss.item() == pytest.approx(bound, abs=5e-4)


def test_no_features_lead_beyond_the_bounds():
    head = AuxiliaryHead(4, 10, normalize=True)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.normal_(0.0, 100.0, generator=torch.Generator().manual_seed(0))
    logits = head(torch.randn(200, 4, generator=torch.Generator().manual_seed(1)))
    losses = -F.log_softmax(logits, dim=1)
    assert 2.7189 < losses.min() < losses.max() < 4.6861


@pytest.mark.parametrize(("sign", "loss"), [(1.0, 0.0), (-1.0, 1000.0 + math.log(39))])
def test_without_unit_length_the_auxiliary_loss_has_no_bounds(sign, loss):
    head = head_of_best_direction(sign, normalize=False)
    found = F.cross_entropy(head(torch.rand(3, 4)), torch.zeros(3, dtype=torch.int64))
    assert found.item() == pytest.approx(loss, rel=1e-4)


def test_the_head_has_two_linear_layers_and_four_labels_a_class():
    made = synthesizer()
    shapes = [tuple(parameter.shape) for parameter in made.head.parameters()]
    assert shapes == [(5, 5), (5,), (12, 5), (12,)]
    assert made.head.normalize is True
    assert synthesizer(normalise_head=False).head.normalize is False


def test_the_head_is_drawn_anew_after_a_round_with_its_momentum():
    made = synthesizer(make_context(student=make_network(make_card(), 2, width=40)))
    made.after_distill_step(some_batch())
    made.head.layers[0].bias.data.fill_(1.0)
    old = snapshot(made.head)
    assert made.head_optimizer.state
    made.synthesize(MAIN)
    for layer in (made.head.layers[0], made.head.layers[2]):
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.15)
        assert not layer.bias.any()
    assert not torch.equal(made.head.layers[0].weight, old["layers.0.weight"])
    assert not made.head_optimizer.state
    (group,) = made.head_optimizer.param_groups
    assert (group["lr"], group["momentum"], group["weight_decay"]) == (0.1, 0.9, 1e-4)


def test_the_heads_momentum_survives_its_reset_where_parity_is_wanted():
    made = synthesizer(keep_momentum=True)
    made.after_distill_step(some_batch())
    old = snapshot(made.head)
    moving = [state["momentum_buffer"].clone() for state in made.head_optimizer.state.values()]
    made.synthesize(MAIN)
    assert not torch.equal(made.head.layers[0].weight, old["layers.0.weight"])
    kept = [state["momentum_buffer"] for state in made.head_optimizer.state.values()]
    assert len(kept) == 4
    assert all(torch.equal(one, other) for one, other in zip(kept, moving, strict=True))
    # Stale momentum belongs to the weights that the head has now: its optimizer still moves them.
    weights = snapshot(made.head)
    made.after_distill_step(some_batch())
    assert not torch.equal(made.head.layers[0].weight, weights["layers.0.weight"])


@pytest.mark.parametrize("first_head", ["normal", "torch"])
def test_the_first_head_is_drawn_like_the_later_ones_or_as_released_by_torch(first_head):
    card = make_card()
    made = synthesizer(make_context(card, student=make_network(card, 2, width=400)), first_head=first_head)
    first = snapshot(made.head)
    # PyTorch's is uniform between -1/sqrt(400) and 1/sqrt(400), so its deviation is 0.05 / sqrt(3).
    deviation = 0.02 if first_head == "normal" else 0.05 / math.sqrt(3)
    assert made.head.layers[0].weight.std().item() == pytest.approx(deviation, rel=0.02)
    assert bool(made.head.layers[0].bias.any()) is (first_head == "torch")
    made.synthesize(WARMUP)
    same = all(torch.equal(value, first[name]) for name, value in made.head.state_dict().items())
    assert same is (first_head == "torch")  # the first main round is to meet it
    made.synthesize(MAIN)
    assert made.head.layers[0].weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not made.head.layers[0].bias.any()


def test_the_head_stays_where_no_reset_is_wanted():
    made = synthesizer(reset_head=False)
    made.after_distill_step(some_batch())
    old = snapshot(made.head)
    made.synthesize(MAIN)
    assert all(torch.equal(value, old[name]) for name, value in made.head.state_dict().items())
    assert made.head_optimizer.state


def test_teaching_the_head_leaves_the_student_as_it_was():
    made = synthesizer()
    student = made.context.student.train().requires_grad_(True)
    next(iter(student.parameters())).requires_grad_(False)
    before, wanted = snapshot(student), [parameter.requires_grad for parameter in student.parameters()]
    head = snapshot(made.head)
    batch = some_batch()
    batch.images.requires_grad_()
    made.after_distill_step(batch)
    assert not torch.equal(made.head.layers[2].weight, head["layers.2.weight"])
    # Weights and BatchNorm's running statistics, mode and gradients.
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(module.training for module in student.modules())
    assert [parameter.requires_grad for parameter in student.parameters()] == wanted
    assert all(parameter.grad is None for parameter in student.parameters())
    assert batch.images.grad is None


def test_the_head_learns_from_the_turned_images_features_in_evaluation_mode():
    made = synthesizer(head_lr=0.05)
    student, batch = made.context.student, some_batch()
    features, labels = [], []
    for image, target in zip(batch.images, batch.targets.tolist(), strict=True):
        for turn in range(4):
            features.append(student.observe(torch.rot90(image, turn, (1, 2))[None]).features)
            labels.append(4 * target + turn)
    unit = F.normalize(made.head.layers(torch.cat(features)), dim=1)
    loss = F.cross_entropy(unit, torch.tensor(labels))
    parameters = list(made.head.parameters())
    gradients = torch.autograd.grad(loss, parameters)
    # SGD's first step: the momentum is the gradient with weight decay.
    wanted = [p.detach() - 0.05 * (g + 1e-4 * p.detach()) for p, g in zip(parameters, gradients, strict=True)]
    student.train()
    made.after_distill_step(batch)
    for parameter, want in zip(parameters, wanted, strict=True):
        torch.testing.assert_close(parameter.detach(), want)


def test_without_its_weight_the_head_is_not_taught():
    made = synthesizer(csd=0.0)
    before = snapshot(made.head)
    asked = passes(made.context.student)
    made.after_distill_step(some_batch())
    assert not asked
    assert all(torch.equal(value, before[name]) for name, value in made.head.state_dict().items())


def told(made: CustomizedInversion, *, customized: bool) -> float:
    return made._loss(torch.rand(2, 3, 8, 8), torch.tensor([0, 1]), customized=customized).item()


def fixed_context():
    # Mean 3 and variance 4 where 0 and 1 are kept: 3 + 3. The teacher gives the wanted classes 2/3 and 1/3.
    batchnorm = [(nn.BatchNorm2d(1), bn_input(3.0, 2.0))]
    card = make_card(classes=2)
    return make_context(card, teacher=Fixed(AGREEMENT["teacher"], batchnorm=batchnorm))


PLAIN = -(math.log(2 / 3) + math.log(1 / 3)) / 2


def test_the_loss_is_the_weighted_sum_of_its_terms_with_the_auxiliary_one_subtracted():
    made = synthesizer(fixed_context(), bn=2.0, oh=4.0, csd=8.0)
    object.__setattr__(made.context, "student", Fixed(AGREEMENT["student"], features=torch.ones(8, 5)))
    with torch.no_grad():
        made.head.layers[2].weight.zero_()
        made.head.layers[2].bias.zero_()[0] = 1.0
    # Unit logits on label 0, which is right once in eight (class 0, no turn).
    told_apart = math.log(math.e + 7) - 1 / 8
    assert told(made, customized=True) == pytest.approx(2 * 6 + 4 * PLAIN - 8 * told_apart, rel=1e-5)
    assert told(made, customized=False) == pytest.approx(2 * 6 + 4 * PLAIN, rel=1e-5)


def test_without_the_auxiliary_term_the_adversary_is_the_unmasked_divergence():
    made = synthesizer(fixed_context(), bn=2.0, oh=4.0, csd=0.0, adv=8.0)
    object.__setattr__(made.context, "student", Fixed(AGREEMENT["student"]))
    both = (AGREEMENT["agreed"] + AGREEMENT["opposed"]) / 2
    assert told(made, customized=True) == pytest.approx(2 * 6 + 4 * PLAIN - 8 * both, rel=1e-5)
    assert told(made, customized=False) == pytest.approx(2 * 6 + 4 * PLAIN, rel=1e-5)


def test_the_adversary_has_no_say_beside_the_auxiliary_term():
    made = synthesizer(fixed_context(), csd=1.0, adv=8.0, bn=2.0, oh=4.0)
    object.__setattr__(made.context, "student", Fixed(AGREEMENT["student"], features=torch.ones(8, 5)))
    with torch.no_grad():
        made.head.layers[2].weight.zero_()
        made.head.layers[2].bias.zero_()
    assert told(made, customized=True) == pytest.approx(2 * 6 + 4 * PLAIN - math.log(8), rel=1e-5)


@pytest.mark.parametrize("options", [{}, {"csd": 0.0, "adv": 1.0}])
def test_the_warm_up_asks_no_student_and_has_its_own_size_and_length(options):
    made = synthesizer(**options)
    asked, taught = passes(made.context.student), passes(made.context.teacher)
    batch = made.synthesize(WARMUP)
    assert not asked
    assert taught == [4, 4]
    assert len(batch) == 4


def test_a_main_round_shows_the_student_all_four_turns_at_every_step():
    made = synthesizer()
    asked, taught = passes(made.context.student), passes(made.context.teacher)
    batch = made.synthesize(MAIN)
    assert asked == [24, 24, 24]
    assert taught == [6, 6, 6]
    assert len(batch) == 6


@pytest.mark.parametrize("channels", [1, 3])
def test_a_round_gives_images_of_the_cards_shape_with_sorted_classes(channels):
    card = make_card(channels, 12)
    batch = synthesizer(make_context(card), batch_size=40, steps=1).synthesize(MAIN)
    batch.check(card.image_shape, card.num_classes)
    assert not batch.images.requires_grad
    assert batch.targets.tolist() == sorted(batch.targets.tolist())
    assert set(batch.targets.tolist()) == {0, 1, 2}


def test_the_iterate_with_the_lowest_loss_is_kept(monkeypatch):
    made = synthesizer(steps=3)
    seen, losses = [], iter([3.0, 1.0, 2.0])

    def scripted(images, targets, *, customized):
        seen.append(images.detach().clone())
        return (images - images.detach()).sum() + next(losses)

    monkeypatch.setattr(made, "_loss", scripted)
    batch = made.synthesize(MAIN)
    assert torch.equal(batch.images, seen[1])
    assert not torch.equal(seen[2], seen[1])


def test_each_round_starts_from_a_generator_drawn_anew():
    made = synthesizer(steps=1)
    scales = []
    made.generator.register_forward_pre_hook(
        lambda module, _: scales.append(module.conv_blocks[0].weight.detach().clone())
    )
    linears = []
    made.generator.register_forward_pre_hook(lambda module, _: linears.append(module.l1[0].weight.detach().clone()))
    made.synthesize(MAIN)
    made.synthesize(MAIN)
    assert not torch.equal(linears[0], linears[1])
    for linear, scale in zip(linears, scales, strict=True):
        assert linear.std().item() == pytest.approx(0.02, rel=0.1)
        assert scale.mean().item() == pytest.approx(1.0, abs=0.01)


def test_a_synthesizer_goes_on_from_its_state_as_if_it_had_not_stopped():
    first = synthesizer(reset_head=False)
    first.after_distill_step(some_batch())
    other = synthesizer(make_context(seed=9), reset_head=False)
    other.load_state_dict(stored(first.state_dict()))
    for made in (first, other):
        made.context.generator.manual_seed(5)
    assert torch.equal(first.synthesize(MAIN).images, other.synthesize(MAIN).images)
    for made in (first, other):
        made.after_distill_step(some_batch(seed=8))
    assert all(torch.equal(value, first.head.state_dict()[name]) for name, value in other.head.state_dict().items())
