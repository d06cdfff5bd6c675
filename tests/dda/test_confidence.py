from __future__ import annotations

import math

import pytest
import torch
from sklearn.mixture import GaussianMixture
from support.kit import make_card, make_context, stored
from torch import nn

from dfkd_bench import Network, SyntheticBatch
from dfkd_bench.stages.scores import ScoreHistory
from dfkd_dda.confidence import (
    ConfidenceFilter,
    ConfidenceOptions,
    LenientFilter,
    LenientOptions,
    Mixture,
    fit_mixture,
    low_posterior,
)


def numbers(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_the_m_step_by_hand():
    shares = torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)
    found = Mixture.of(numbers(0.0, 0.4, 1.0), shares, 0.01)
    # The first has the masses 1 and 0.5 at 0 and 0.4: mean 0.2 / 1.5, variance 0.08 / 1.5 - mean^2.
    assert found.weights.tolist() == pytest.approx([0.5, 0.5])
    assert found.means.tolist() == pytest.approx([0.2 / 1.5, 1.2 / 1.5])
    spread = [0.08 / 1.5 - (0.2 / 1.5) ** 2, 1.08 / 1.5 - (1.2 / 1.5) ** 2]
    assert found.variances.tolist() == pytest.approx([value + 0.01 for value in spread])


def test_the_e_step_by_hand():
    mixture = Mixture(numbers(0.25, 0.75), numbers(1.0, 0.0), numbers(0.04, 0.25))
    values = numbers(0.0, 0.7)

    def density(x: float, mean: float, variance: float) -> float:
        return math.exp(-((x - mean) ** 2) / (2 * variance)) / math.sqrt(2 * math.pi * variance)

    first, second = (0.25 * density(x, 1.0, 0.04) for x in (0.0, 0.7)), (0.75 * density(x, 0, 0.25) for x in (0.0, 0.7))
    expected = [low / (low + high) for high, low in zip(first, second, strict=True)]
    assert low_posterior(values, mixture).tolist() == pytest.approx(expected)  # the second has the lower mean


@pytest.mark.parametrize("seed", range(5))
def test_it_is_scikit_learns_mixture_from_the_same_beginning(seed):
    draws = torch.Generator().manual_seed(seed)
    values = torch.cat((torch.rand(60, generator=draws), 0.1 * torch.rand(80, generator=draws))).double()
    values = (values - values.min()) / (values.max() - values.min())
    upper = (values > 0.5).double()
    first = Mixture.of(values, torch.stack((1 - upper, upper), dim=1), 5e-4)
    other = GaussianMixture(
        2,
        max_iter=10,
        tol=1e-2,
        reg_covar=5e-4,
        weights_init=first.weights / first.weights.sum(),
        means_init=first.means[:, None],
        precisions_init=1 / first.variances[:, None, None],
    ).fit(values[:, None].numpy())
    found = fit_mixture(values)
    assert found.means.tolist() == pytest.approx(other.means_[:, 0].tolist(), rel=1e-6)
    assert found.variances.tolist() == pytest.approx(other.covariances_[:, 0, 0].tolist(), rel=1e-6)
    wanted = other.predict_proba(values[:, None].numpy())[:, int(other.means_.argmin())]
    assert low_posterior(values, found).tolist() == pytest.approx(wanted.tolist(), abs=1e-6)


def context(*confidences: float):
    """A teacher that is this sure of the images 0, 1, ...: its logits are log p and log (1 - p)."""
    card = make_card(channels=1, side=1, classes=2).model_copy(update={"mean": (0.0,), "std": (1.0,)})
    odds = torch.tensor([math.log(p / (1 - p)) for p in confidences])

    class Body(nn.Module):
        def __init__(self):
            super().__init__()
            self.out = nn.Linear(2, 2, bias=False)
            self.out.weight.data.copy_(torch.eye(2))

        def forward(self, x):
            logit = odds[(x.flatten() * 255).round().long()]
            return self.out(torch.stack((logit, torch.zeros_like(logit)), dim=1))

    network = Network(Body(), card).eval()
    images = (torch.arange(len(confidences)) / 255).view(-1, 1, 1, 1)
    return make_context(card, network, network), SyntheticBatch(images, torch.zeros(len(confidences)).long())


def test_confidence_keeps_what_the_teacher_is_sure_of_and_tells_the_histogram():
    given, batch = context(0.55, 0.7, 0.9, 0.99)
    made = ConfidenceFilter(ConfidenceOptions(threshold=0.8), given)
    assert made.keep(batch, batch).tolist() == [False, False, True, True]
    (entry,) = made.report()["rounds"]
    assert (entry["calls"], entry["seen"], entry["kept"]) == (1, 4, 2)
    # Twenty bins of 0.05 each. 0.55, 0.7 and 0.9 lie at an edge.
    assert sum(entry["counts"]) == 4 and entry["counts"][19] == 1 and sum(entry["counts"][:10]) == 0


def test_lenient_keeps_the_confident_group_however_confident_it_is():
    sure, unsure = [0.80, 0.82, 0.81, 0.79, 0.83], [0.55, 0.52, 0.57]
    given, batch = context(*sure, *unsure)
    made = LenientFilter(LenientOptions(), given)
    assert made.keep(batch, batch).tolist() == [True] * 5 + [False] * 3
    given, batch = context(0.7, 0.7)
    assert LenientFilter(LenientOptions(), given).keep(batch, batch).tolist() == [True, True]


def test_a_history_joins_neighbors_when_it_grows_long_and_goes_on_from_its_state():
    history, other = ScoreHistory(bins=2, most=4), ScoreHistory(bins=2, most=4)
    for call in range(11):
        history.add(torch.tensor([0.1, 0.9, -3.0]), torch.tensor([call % 2 == 0, False, True]))
        if call == 6:
            other.load_state_dict(stored(history.state_dict()))
        if call > 6:
            other.add(torch.tensor([0.1, 0.9, -3.0]), torch.tensor([call % 2 == 0, False, True]))
    rounds = history.report()["rounds"]
    assert [entry["calls"] for entry in rounds] == [4, 4, 3]
    assert [entry["kept"] for entry in rounds] == [6, 6, 5]
    assert [entry["counts"] for entry in rounds] == [[8, 4], [8, 4], [6, 3]]
    assert other.report() == history.report()
