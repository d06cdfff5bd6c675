from __future__ import annotations

import pytest
import torch
from torch import nn

from dfkd_bench import Schedule
from dfkd_bench.blocks.optimizers import make_optimizer


def one_step(**settings) -> float:
    """Where a weight of 1 with gradient 2 is after a step with learning rate 0.1."""
    schedule = Schedule(epochs=1, steps_per_epoch=1, batch_size=1, lr=0.1, **settings)
    weight = nn.Parameter(torch.ones(()))
    optimizer = make_optimizer([weight], schedule)
    (2 * weight).backward()
    optimizer.step()
    return float(weight.detach())


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"weight_decay": 0.0}, 1 - 0.1 * 2),
        ({"weight_decay": 0.5}, 1 - 0.1 * (2 + 0.5)),
        ({"weight_decay": 0.5, "nesterov": True}, 1 - 0.1 * (1 + 0.9) * 2.5),
        ({"weight_decay": 0.0, "optimizer": "adamw"}, 1 - 0.1),  # the first step is the gradient's sign
        ({"weight_decay": 0.5, "optimizer": "adamw"}, 1 - 0.1 * 0.5 - 0.1),  # and decay apart from it
    ],
)
def test_a_step_by_hand(settings, expected):
    assert one_step(**settings) == pytest.approx(expected, abs=1e-6)


def test_momentum_is_adamws_first_beta():
    schedule = Schedule(epochs=1, steps_per_epoch=1, batch_size=1, lr=0.1, optimizer="adamw", momentum=0.5)
    optimizer = make_optimizer([nn.Parameter(torch.ones(()))], schedule)
    assert optimizer.param_groups[0]["betas"] == (0.5, 0.999)
