import math

import pytest
import torch
from support.kit import stored
from support.method_kit import Fixed, make_card, make_context, make_network, snapshot
from torch import nn

from dfkd_baselines.csd import (
    CsdDistiller,
    CsdDistillerOptions,
    CustomizedInversion,
    _align_head,
)
from dfkd_bench.stages.bank import SyntheticBatch


def some_batch(count: int = 5, seed: int = 7) -> SyntheticBatch:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (count,), generator=generator)
    return SyntheticBatch(torch.rand(count, 3, 8, 8, generator=generator), targets)


def distiller(context=None, **options) -> CsdDistiller:
    return CsdDistiller(CsdDistillerOptions(**options), context or make_context())


def test_the_aligning_head_of_the_scripted_pair_has_640_000_parameters():
    assert sum(parameter.numel() for parameter in _align_head(64, 128).parameters()) == 640_000


def test_the_students_loss_has_three_parts_with_their_weights():
    made = distiller(tau=20.0, target_weight=2.0, feature_weight=30.0)
    made.align = nn.Identity()
    ln2 = math.log(2)
    # At temperature 20 the teacher says (2/3, 1/3), the student (1/2, 1/2).
    teacher = Fixed([[20 * ln2, 0.0]], maps={"second": torch.full((1, 6, 4, 4), 1.0)})
    student = Fixed([[0.0, 0.0]], maps={"second": torch.full((1, 6, 4, 4), 3.0)})
    batch = SyntheticBatch(torch.rand(1, 3, 8, 8), torch.tensor([1]))
    losses = {name: loss.item() for name, loss in made.losses(student, teacher, batch).items()}
    divergence = 2 / 3 * math.log(4 / 3) + 1 / 3 * math.log(2 / 3)
    assert losses == pytest.approx({"kd": 400 * divergence, "target": 2 * ln2, "feature": 30 * 4.0}, rel=1e-4)


def test_the_released_weights_are_the_defaults():
    options = CsdDistillerOptions()
    assert (options.tau, options.target_weight, options.feature_weight) == (20.0, 1.0, 30.0)


@pytest.mark.parametrize(
    ("own", "wanted"),
    [
        # Four by four pooled to two by two: the means of the quarters.
        (torch.arange(16.0).view(4, 4), [[2.5, 4.5], [10.5, 12.5]]),
        # One by one spread over two by two.
        (torch.tensor([[7.0]]), [[7.0, 7.0], [7.0, 7.0]]),
        # Already of the teacher's size.
        (torch.tensor([[1.0, 2.0], [3.0, 4.0]]), [[1.0, 2.0], [3.0, 4.0]]),
    ],
)
def test_the_students_map_is_pooled_to_the_size_of_the_teachers(own, wanted):
    card = make_card(1)
    made = distiller(make_context(card, teacher=make_network(card, 1, stride=4)), feature_weight=1.0)
    made.align = nn.Identity()
    teacher = Fixed([[0.0, 0.0, 0.0]], maps={"second": torch.zeros(1, 1, 2, 2)})
    student = Fixed([[0.0, 0.0, 0.0]], maps={"second": own.view(1, 1, *own.shape)})
    batch = SyntheticBatch(torch.rand(1, 1, 8, 8), torch.tensor([0]))
    feature = made.losses(student, teacher, batch)["feature"].item()
    assert feature == pytest.approx(torch.tensor(wanted).square().mean().item())


def test_the_maps_are_those_of_the_last_stage_and_the_head_fits_them():
    card = make_card()
    context = make_context(card, student=make_network(card, 2, width=5), teacher=make_network(card, 1, width=6))
    made = distiller(context)
    assert made.names == ("second", "second")
    assert made.size == (4, 4)
    assert made.align(torch.zeros(2, 5, 4, 4)).shape == (2, 6, 4, 4)


def test_student_and_aligning_head_learn_and_the_teacher_does_not():
    made = distiller()
    student, teacher = made.context.student.train().requires_grad_(True), made.context.teacher.requires_grad_(True)
    before, head = snapshot(teacher), snapshot(made.align)
    own = list(made.parameters())
    assert {id(parameter) for parameter in own} == {id(parameter) for parameter in made.align.parameters()}
    losses = made.losses(student, teacher, some_batch())
    losses["feature"].backward()
    # Without classifier: the feature term alone reaches all of the student's convolutions.
    assert all(parameter.grad is not None for parameter in student.body.second.parameters())
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in own)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    torch.optim.SGD(own, 0.1).step()
    assert all(not torch.equal(parameter, head[name]) for name, parameter in made.align.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_making_a_distiller_leaves_the_student_as_it_was():
    context = make_context()
    student = context.student.train().requires_grad_(True)
    before = snapshot(student)
    made = distiller(context)
    assert student.training
    assert all(parameter.requires_grad for parameter in student.parameters())
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    # The head itself is always in training mode.
    assert all(module.training for module in made.align.modules())


def test_a_distiller_goes_on_from_its_state():
    first = distiller()
    first.losses(first.context.student, first.context.teacher, some_batch())
    other = distiller(make_context(seed=9))
    other.load_state_dict(stored(first.state_dict()))
    assert all(torch.equal(value, other.align.state_dict()[name]) for name, value in first.align.state_dict().items())


def test_what_the_two_stages_require():
    assert CustomizedInversion.requires == {"batchnorm"}
    options = CsdDistiller.Options
    assert CsdDistiller.requires_with(options()) == {"stages", "targets"}
    assert CsdDistiller.requires_with(options(target_weight=0)) == {"stages"}
    assert CustomizedInversion.prior == CsdDistiller.prior == "none"
