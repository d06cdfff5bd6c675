from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.kit import make_card, make_context, make_convnet, plain_cross_entropy, plain_kl, stored
from torch import Tensor, nn

from dfkd_bench import DfkdError, Network, SyntheticBatch
from dfkd_bench.blocks.rotation import quarter_turns
from dfkd_dda.distiller import DdaDistiller, DdaOptions


def test_images_are_turned_against_the_clock_image_by_image_and_labeled_by_their_turns():
    first = [[1, 2], [3, 4]], [[2, 4], [1, 3]], [[4, 3], [2, 1]], [[3, 1], [4, 2]]
    images = torch.tensor([[[[1, 2], [3, 4]]], [[[5, 6], [7, 8]]]])
    turned, labels = quarter_turns(images)
    assert turned[:4, 0].tolist() == list(first)
    assert turned[4:, 0].tolist() == [[[value + 4 for value in row] for row in each] for each in first]
    assert labels.tolist() == [0, 1, 2, 3, 0, 1, 2, 3] and labels.dtype == torch.int64


class _Pixels(nn.Module):
    """Its features are the pixels themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.flatten(1))


CARD = make_card(channels=1, side=2)


def make(seed: int = 0, **options: Any) -> DdaDistiller:
    torch.manual_seed(0)
    networks = [Network(_Pixels(), CARD).eval() for _ in range(2)]
    networks[0].requires_grad_(False)
    return DdaDistiller(DdaOptions(**options), make_context(CARD, *networks, seed))


def some_batch() -> SyntheticBatch:
    images = torch.rand(5, 1, 2, 2, generator=torch.Generator().manual_seed(1))
    return SyntheticBatch(images, torch.tensor([0, 1, 2, 0, 1]))


def losses(made: DdaDistiller) -> dict[str, Tensor]:
    return made.losses(made.context.student, made.context.teacher, some_batch())


@pytest.mark.parametrize("tau", [1.0, 20.0])
def test_its_kl_goes_from_teacher_to_student_at_its_temperature_times_tau_squared(tau):
    made = make(tau=tau)
    found = losses(made)
    wanted, got = (
        network(some_batch().images).detach().double().numpy() / tau
        for network in (made.context.teacher, made.context.student)
    )
    assert float(found["kd"].detach()) == pytest.approx(tau**2 * plain_kl(wanted, got).mean(), rel=1e-3)
    assert found.keys() == {"kd"}
    assert list(made.parameters()) == [] and made.state_dict() == {}


def test_its_self_loss_is_the_cross_entropy_of_the_heads_guess_of_the_turn():
    made = make(self_loss="rotation", self_weight=0.7)
    pixels = (some_batch().images[:, 0].double().numpy() - 0.5) / 0.25
    features = np.stack([np.rot90(image, turn).reshape(4) for image in pixels for turn in range(4)])
    first, _, last = made.head
    w1, b1, w2, b2 = (each.detach().double().numpy() for each in (*first.parameters(), *last.parameters()))
    logits = np.maximum(features @ w1.T + b1, 0) @ w2.T + b2
    by_hand = plain_cross_entropy(logits, np.tile(np.arange(4), 5))
    assert float(losses(made)["self"].detach()) == pytest.approx(0.7 * by_hand, rel=1e-4)


def test_the_self_loss_brings_its_parameters_and_they_learn():
    made = make(self_loss="rotation")
    parameters = list(made.parameters())
    assert [tuple(parameter.shape) for parameter in parameters] == [(4, 4), (4,), (4, 4), (4,)]
    optimizer = torch.optim.SGD(parameters, 0.5)
    values = []
    for _ in range(30):
        loss = losses(made)["self"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert values[-1] < values[0] - 0.1


def test_the_self_loss_reaches_the_student():
    card = make_card()
    teacher, student = make_convnet(card, seed=1), make_convnet(card, seed=2).requires_grad_(True)
    made = DdaDistiller(DdaOptions(self_loss="rotation"), make_context(card, teacher, student))
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    made.losses(student, teacher, SyntheticBatch(images, torch.tensor([0, 1])))["self"].backward()
    assert student.body.conv1.weight.grad.any()
    assert student.body.fc.weight.grad is None
    assert all(parameter.grad is None for parameter in teacher.parameters())


def test_the_heads_weights_come_from_the_stages_stream():
    torch.manual_seed(3)
    heads = [make(seed, self_loss="rotation").head[0].weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


def test_it_goes_on_from_its_state():
    made, other = make(1, self_loss="rotation"), make(2, self_loss="rotation")
    assert not torch.equal(losses(made)["self"], losses(other)["self"])
    other.load_state_dict(stored(made.state_dict()))
    assert torch.equal(losses(made)["self"], losses(other)["self"])


def test_images_that_are_not_square_cannot_be_turned_and_that_is_said():
    card = CARD.model_copy(update={"image_shape": (1, 2, 4)})
    networks = [Network(_Pixels(), card) for _ in range(2)]
    with pytest.raises(DfkdError, match="self_loss=rotation turns square images; toy's are 2x4"):
        DdaDistiller(DdaOptions(self_loss="rotation"), make_context(card, *networks))
    DdaDistiller(DdaOptions(), make_context(card, *networks))
