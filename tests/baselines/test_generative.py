import math

import pytest
import torch
from support.kit import stored
from support.method_kit import Fixed, bn_input, make_card, make_context, make_network, snapshot, stream
from torch import nn

from dfkd_baselines.generative import (
    Generative,
    GenerativeOptions,
    L1Distiller,
    activation_loss,
    balance_loss,
    l1,
)
from dfkd_bench.stages.bank import SyntheticBatch
from dfkd_bench.stages.base import Round, StageOptions

ROUND = Round(0, warmup=False)


def synthesizer(context=None, **options) -> Generative:
    small = {"batch_size": 12, "latent_dim": 6, "width": 8}
    return Generative(GenerativeOptions(**{**small, **options}), context or make_context())


def adversarial_gradient(student) -> torch.Tensor:
    """The generator's gradient of one step in which the adversary alone has a weight."""
    card = make_card()
    made = synthesizer(make_context(card, teacher=make_network(card, 1), student=student), adv=1.0)
    made.synthesize(ROUND)
    return torch.cat([parameter.grad.flatten() for parameter in made.generator.parameters()])


def test_the_activation_loss_is_minus_the_mean_absolute_feature():
    assert activation_loss(torch.tensor([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]])).item() == pytest.approx(-21 / 6)


def test_the_balance_loss_of_uniform_logits_is_minus_ln_k():
    assert balance_loss(torch.zeros(4, 5)).item() == pytest.approx(-math.log(5))


def test_the_balance_loss_is_of_the_batch_mean_and_not_of_each_image():
    surely = torch.tensor([[50.0, 0.0], [50.0, 0.0], [50.0, 0.0], [0.0, 50.0]])
    wanted = 0.75 * math.log(0.75) + 0.25 * math.log(0.25)
    assert balance_loss(surely).item() == pytest.approx(wanted)


def test_the_balance_loss_is_zero_and_finite_where_all_images_are_of_one_class():
    logits = torch.tensor([[200.0, 0.0, 0.0], [200.0, 0.0, 0.0]], requires_grad=True)
    assert torch.softmax(logits, dim=1)[0, 1].item() == 0  # it does underflow
    loss = balance_loss(logits)
    loss.backward()
    assert loss.item() == 0
    assert torch.isfinite(logits.grad).all()


def test_l1_is_the_mean_distance_of_the_logits():
    assert l1(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[0.0, 4.0], [3.0, 9.0]])).item() == 8 / 4


def told(**options):
    """The loss of a generator whose teacher and student answer what they are told."""
    ln2 = math.log(2)
    # The teacher says (2/3, 1/3) and (1/3, 2/3), the student (1/2, 1/2) twice.
    context = make_context(make_card(classes=2), student=Fixed([[0.0, 0.0], [0.0, 0.0]]))
    # Mean 3 and variance 4 where 0 and 1 are kept: 3 + 3.
    batchnorm = [(nn.BatchNorm2d(1), bn_input(3.0, 2.0))]
    seen = Fixed([[ln2, 0.0], [0.0, ln2]], features=[[1.0, -3.0], [2.0, 0.0]], batchnorm=batchnorm).seen
    return synthesizer(context, **options)._loss(torch.rand(2, 3, 8, 8), seen).item()


KL = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"bn": 0.5}, 0.5 * 6),
        ({"oh": 2.0}, 2 * math.log(3 / 2)),
        ({"adv": 3.0}, -3 * KL),
        ({"adv": 3.0, "adv_kind": "l1"}, -3 * math.log(2) / 2),
        ({"bal": 5.0}, -5 * math.log(2)),
        ({"act": 7.0}, -7 * 1.5),
    ],
)
def test_each_term_of_the_loss_has_its_weight_and_sign(options, wanted):
    assert told(**options) == pytest.approx(wanted, rel=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_terms():
    wanted = 0.5 * 6 + 2 * math.log(3 / 2) - 3 * KL - 5 * math.log(2) - 7 * 1.5
    assert told(bn=0.5, oh=2.0, adv=3.0, bal=5.0, act=7.0) == pytest.approx(wanted, rel=1e-5)


def test_the_adversary_has_temperature_one_unless_told_otherwise():
    assert GenerativeOptions(adv=1.0).adv_tau == 1.0
    assert told(adv=1.0) == pytest.approx(told(adv=1.0, adv_tau=1.0)) == pytest.approx(-KL, rel=1e-5)


def test_the_adversarys_temperature_softens_both_players_and_multiplies_by_its_square():
    p = math.sqrt(2) / (1 + math.sqrt(2))  # softmax of (ln 2, 0) / 2
    softened = p * math.log(2 * p) + (1 - p) * math.log(2 * (1 - p))
    assert told(adv=1.0, adv_tau=2.0) == pytest.approx(-4 * softened, rel=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_round_gives_images_of_the_cards_shape_with_the_teachers_guesses(channels):
    card = make_card(channels, 12)
    made = synthesizer(make_context(card), oh=1.0)
    batch = made.synthesize(ROUND)
    batch.check(card.image_shape, card.num_classes)
    assert len(batch) == 12
    assert not batch.images.requires_grad
    assert torch.equal(batch.targets, made.context.teacher(batch.images).argmax(dim=1))


def test_the_generator_learns_and_neither_teacher_nor_student_changes():
    made = synthesizer(oh=1.0, adv=1.0, bal=1.0, bn=1.0, act=1.0, steps=2)
    context, generator = made.context, snapshot(made.generator)
    before = snapshot(context.teacher), snapshot(context.student)
    made.synthesize(ROUND)
    for name, parameter in made.generator.named_parameters():
        assert not torch.equal(parameter, generator[name]), name
    for network, old in zip((context.teacher, context.student), before, strict=True):
        now = snapshot(network)
        assert all(torch.equal(now[name], old[name]) for name in old)
        assert all(parameter.grad is None for parameter in network.parameters())


def test_the_loss_falls_over_the_generators_steps():
    made = synthesizer(oh=1.0, lr=1e-2)
    confidence = []
    for _ in range(25):
        batch = made.synthesize(ROUND)
        confidence.append(made.context.teacher(batch.images).softmax(dim=1).amax(dim=1).mean().item())
    assert sum(confidence[-5:]) > sum(confidence[:5])


def test_a_round_takes_as_many_generator_steps_as_told():
    made = synthesizer(oh=1.0, steps=3)
    made.synthesize(ROUND)
    assert {int(state["step"]) for state in made.optimizer.state.values()} == {3}


def test_the_adversarial_gradient_lives_and_depends_on_the_student():
    card = make_card()
    one, other = (adversarial_gradient(make_network(card, seed)) for seed in (2, 3))
    assert one.norm() > 1e-3
    assert other.norm() > 1e-3
    assert (one - other).norm() > 0.1 * one.norm()


def test_the_adversarial_gradient_is_dead_when_the_student_is_the_teacher():
    # Fault B06 of a released code: this is what handing the teacher to the generator as its student does.
    card = make_card()
    dead, alive = adversarial_gradient(make_network(card, 1)), adversarial_gradient(make_network(card, 2))
    assert dead.norm() < 1e-4 * alive.norm()


@pytest.mark.parametrize(("mode", "training"), [("eval", False), ("train", True)])
def test_the_sample_mode_is_the_generators_mode_when_the_student_is_fed(mode, training):
    made = synthesizer(oh=1.0, sample_mode=mode)
    made.synthesize(ROUND)
    assert made.generator.training
    kept = made.generator.conv_blocks[0].running_mean.clone()
    made.sample(4)
    assert made.generator.training is training
    # In training mode the batch itself is what is normalized with, and the running mean moves.
    assert torch.equal(made.generator.conv_blocks[0].running_mean, kept) is not training
    made.synthesize(ROUND)
    assert made.generator.training


def test_the_sample_mode_is_eval_unless_told_otherwise():
    assert GenerativeOptions(oh=1.0).sample_mode == "eval"


def test_a_generator_that_aims_at_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one of bn, oh, adv, bal and act needs a weight"):
        GenerativeOptions()


def test_a_distiller_that_looks_at_targets_is_refused_beside_a_generator_that_names_none():
    from dfkd_bench.api import plan
    from dfkd_bench.errors import DfkdError
    from dfkd_bench.workbench import Workbench

    with pytest.raises(DfkdError, match="needs images that name their classes, and the synthesizer 'generative'"):
        plan(Workbench.make(device="cpu"), ["dafl"], ["resnet8:resnet8"], overrides=["distiller.target_weight=1"])


def test_samples_are_fresh_images_without_a_graph():
    made = synthesizer(oh=1.0)
    one, other = made.sample(7), made.sample(7)
    one.check(made.context.card.image_shape, 3)
    assert len(one) == 7
    assert not one.images.requires_grad
    assert not torch.equal(one.images, other.images)


def test_it_is_a_stream_synthesizer_without_a_bank():
    assert Generative.stream is True
    assert Generative.prior == "none"


def test_it_requires_batchnorm_only_where_its_statistics_have_a_weight():
    assert Generative.requires_with(GenerativeOptions(bn=1.0)) == {"batchnorm"}
    assert Generative.requires_with(GenerativeOptions(oh=1.0, adv=1.0)) == frozenset()


def test_a_generator_goes_on_from_its_state_as_if_it_had_not_stopped():
    first = synthesizer(oh=1.0, bal=1.0)
    first.synthesize(ROUND)
    state = stored(first.state_dict())
    other = synthesizer(make_context(seed=9), oh=1.0, bal=1.0)
    other.load_state_dict(state)
    for made in (first, other):
        made.context.generator.manual_seed(5)
    assert torch.equal(first.synthesize(ROUND).images, other.synthesize(ROUND).images)
    # Adam's moments came along: the weights still agree after their next step.
    mine, its = snapshot(first.generator), snapshot(other.generator)
    assert all(torch.equal(mine[name], its[name]) for name in mine)


def test_the_same_seed_gives_the_same_generator_and_another_seed_another():
    one, same, other = (synthesizer(make_context(seed=seed), oh=1.0) for seed in (4, 4, 5))
    assert torch.equal(one.generator.l1[0].weight, same.generator.l1[0].weight)
    assert not torch.equal(one.generator.l1[0].weight, other.generator.l1[0].weight)


def test_the_l1_distiller_asks_for_the_mean_distance_and_teaches_the_student_alone():
    distiller = L1Distiller(StageOptions(), make_context())
    batch = SyntheticBatch(torch.rand(2, 3, 8, 8, generator=stream()), torch.zeros(2, dtype=torch.int64))
    student, teacher = Fixed([[1.0, 2.0], [3.0, 4.0]]), Fixed([[0.0, 4.0], [3.0, 9.0]])
    student.seen.logits.requires_grad_()
    teacher.seen.logits.requires_grad_()
    losses = distiller.losses(student, teacher, batch)
    assert {name: loss.item() for name, loss in losses.items()} == {"l1": 2.0}
    losses["l1"].backward()
    assert student.seen.logits.grad.tolist() == [[0.25, -0.25], [0.0, -0.25]]
    assert teacher.seen.logits.grad is None
