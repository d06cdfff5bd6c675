import math

import pytest
import torch
from support.kit import stored
from support.method_kit import Fixed, bn_input, make_card, make_context, snapshot
from torch import nn

from dfkd_bench.stages.base import Round
from dfkd_recent.gapssg import GapInversion, GapOptions, gap_loss, probability_gap

LN2, LN3 = math.log(2), math.log(3)
# The teacher says (2/3, 1/3), the student (1/4, 3/4); the class is the first one.
TEACHER, STUDENT, TARGET = [[LN2, 0.0]], [[0.0, LN3]], [0]


def tensors(*values):
    return [torch.tensor(value) for value in values]


def made(context=None, **options) -> GapInversion:
    return GapInversion(
        GapOptions(**{"batch_size": 12, "steps": 2, "latent_dim": 6, **options}), context or make_context()
    )


def test_the_gap_is_the_mean_over_images_of_the_largest_difference_of_probabilities():
    # |1/4 - 2/3| = 5/12 in the first image, nothing in the second.
    student, teacher = tensors([[0.0, LN3], [1.0, 1.0]], [[LN2, 0.0], [1.0, 1.0]])
    assert probability_gap(student, teacher).item() == pytest.approx(5 / 24)


def test_the_loss_by_hand():
    student, teacher, target = tensors(STUDENT, TEACHER, TARGET)
    # Half the difference: (ln 2 / 2, -ln 3 / 2), so p = sqrt 2 / (sqrt 2 + 1 / sqrt 3). The sum: (ln 2, ln 3), p = 2/5.
    ahead = -math.log(math.sqrt(2) / (math.sqrt(2) + 1 / math.sqrt(3)))
    wanted = (1 - math.exp(-5 / 12)) * (ahead + 0.2 * math.log(5 / 2))
    assert gap_loss(student, teacher, target, 0.2).item() == pytest.approx(wanted, rel=1e-6)


def test_no_gradient_goes_through_the_gap():
    student, teacher, target = tensors(STUDENT, TEACHER, TARGET)
    student.requires_grad_(), teacher.requires_grad_()
    gap_loss(student, teacher, target, 0.0).backward()
    # The slope of CE((t - s) / 2, y) is (p - onehot) / 2 for the teacher, its opposite for the student.
    p = math.sqrt(2) / (math.sqrt(2) + 1 / math.sqrt(3))
    slope = (1 - math.exp(-5 / 12)) * torch.tensor([[(p - 1) / 2, (1 - p) / 2]])
    assert torch.allclose(teacher.grad, slope, atol=1e-6)
    assert torch.allclose(student.grad, -slope, atol=1e-6)


def test_without_a_gap_only_the_statistics_count():
    # Mean 3 and variance 4 where 0 and 1 are kept: 3 + 3.
    batchnorm = [(nn.BatchNorm2d(1), bn_input(3.0, 2.0))]
    told = Fixed([[1.0, 0.0]], batchnorm=batchnorm)
    context = make_context(make_card(classes=2), teacher=told, student=Fixed([[1.0, 0.0]]))
    loss = made(context, bn=0.5)._loss(torch.rand(1, 3, 8, 8), torch.tensor([0]))
    assert loss.item() == pytest.approx(3.0)


def test_the_weights_multiply_their_losses():
    context = make_context(make_card(classes=2), teacher=Fixed(TEACHER), student=Fixed(STUDENT))
    loss = made(context, bn=0.0, gap=3.0)._loss(torch.rand(1, 3, 8, 8), torch.tensor(TARGET))
    assert loss.item() == pytest.approx(3 * gap_loss(*tensors(STUDENT, TEACHER, TARGET), 0.2).item(), rel=1e-6)


def test_each_round_begins_with_fresh_weights_and_draws_go_on():
    one = made()
    first, second = (one.synthesize(Round(index, warmup=False)) for index in range(2))
    assert first.images.shape == (12, 3, 8, 8)
    assert torch.equal(first.targets, first.targets.sort().values)
    assert not torch.equal(first.images, second.images)


def test_the_state_is_the_generator():
    one, other = made(), made(make_context(seed=1))
    one.synthesize(Round(0, warmup=False))
    other.load_state_dict(stored(one.state_dict()))
    kept = snapshot(one.generator)
    assert all(torch.equal(value, kept[name]) for name, value in snapshot(other.generator).items())
