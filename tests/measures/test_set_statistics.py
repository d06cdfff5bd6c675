from __future__ import annotations

import math

import pytest
import torch

from dfkd_bench.measures.measure import class_balance
from dfkd_bench.measures.statistics import (
    coverage,
    frechet_distance,
    kernel_distance,
    mean_pairwise_cosine,
    vendi_score,
)

EYE = torch.eye(4)


def some(count: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def test_the_mean_cosine_of_all_pairs_by_hand():
    rows = torch.tensor([[2.0, 0.0], [0.0, 1.0], [3.0, 3.0]])
    assert mean_pairwise_cosine(rows) == pytest.approx((0 + math.sqrt(0.5) + math.sqrt(0.5)) / 3)
    assert mean_pairwise_cosine(torch.ones(5, 3)) == pytest.approx(1)


def test_the_vendi_score_counts_what_differs():
    assert vendi_score(EYE) == pytest.approx(4)
    assert vendi_score(torch.ones(7, 3)) == pytest.approx(1)
    # Two kinds, three of one and one of the other: the entropy of (3/4, 1/4).
    rows = EYE[[0, 0, 0, 1]]
    assert vendi_score(rows) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)))
    # Two at 60 degrees: K / 2 has the eigenvalues (1 + 0.5) / 2 and (1 - 0.5) / 2, the same entropy.
    rows = torch.tensor([[1.0, 0.0], [0.5, math.sqrt(0.75)]])
    assert vendi_score(rows) == pytest.approx(math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25)), rel=1e-6)


def test_the_smaller_product_gives_the_same_vendi_score():
    rows = some(30, 4, 0)
    assert vendi_score(rows) == pytest.approx(vendi_score(torch.cat((rows, torch.zeros(30, 40)), dim=1)), rel=1e-9)


def test_the_vendi_score_is_the_original_packages():
    vendi = pytest.importorskip("vendi_score.vendi", reason="the package vendi-score is not installed")
    rows = torch.nn.functional.normalize(some(30, 4, 0).double(), dim=1)
    assert vendi_score(rows) == pytest.approx(float(vendi.score_dual(rows.numpy())), rel=1e-6)


def test_coverage_by_hand():
    # With one neighbor the radii are 1, 1, 5 for the real ones and 0.5 for each of the made ones.
    real = torch.tensor([[0.0], [1.0], [6.0]])
    made = torch.tensor([[0.25], [0.75], [50.0], [50.5]])
    found = coverage(real, made, nearest=1)
    assert found.precision == pytest.approx(2 / 4)  # 50 and 50.5 lie in no neighborhood
    assert found.recall == pytest.approx(2 / 3)  # 0 and 1 are 0.25 from a made one, 6 is 5.25 from 0.75
    # 0.25 and 0.75 lie within 1 of both 0 and 1; the neighborhood of 6 reaches down to 1.
    assert found.density == pytest.approx((2 + 2 + 0 + 0) / 4)
    assert found.coverage == pytest.approx(2 / 3)


def test_a_set_covers_itself():
    rows = some(40, 3, 1)
    found = coverage(rows, rows.clone())
    assert (found.precision, found.recall, found.coverage) == (1, 1, 1)
    with pytest.raises(ValueError, match="need more than 5 images"):
        coverage(rows, rows[:5])


def test_coverage_is_the_original_packages():
    prdc = pytest.importorskip("prdc", reason="the package prdc is not installed")
    real, made = some(60, 5, 1), some(50, 5, 2) + 0.5
    wanted, found = prdc.compute_prdc(real.numpy(), made.numpy(), nearest_k=5), coverage(real, made)
    assert {name: getattr(found, name) for name in wanted} == pytest.approx(wanted)


def test_the_frechet_distance_by_hand():
    # Means 1 and 4; variances 2 and 8 (with n - 1): (4 - 1)^2 + (sqrt(2) - sqrt(8))^2.
    real, made = torch.tensor([[0.0], [2.0]]), torch.tensor([[2.0], [6.0]])
    assert frechet_distance(real, made) == pytest.approx(9 + 2)
    rows = some(50, 4, 3)
    assert frechet_distance(rows, rows) == pytest.approx(0, abs=1e-9)
    # Independent features add up.
    pairs = [torch.cartesian_prod(each[:, 0], each[:, 0]) for each in (real, made)]
    variances = [float(each[:, 0].var()) for each in pairs]
    assert frechet_distance(*pairs) == pytest.approx(2 * (9 + (variances[0] ** 0.5 - variances[1] ** 0.5) ** 2))


def test_the_kernel_distance_by_hand():
    real, made = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    # Pairs of real ones: (0 * 1 + 1)^3 = 1; of made ones: 7^3; across: 1, 1, 3^3, 4^3.
    assert kernel_distance(real, made) == pytest.approx(1 + 343 - 2 * (1 + 1 + 27 + 64) / 4)


def test_the_class_balance_is_the_entropy_by_its_largest_value():
    assert class_balance(torch.tensor([0, 1, 2, 3]), 4) == pytest.approx(1)
    assert class_balance(torch.tensor([2, 2]), 4) == 0
    assert class_balance(torch.tensor([0, 1]), 4) == pytest.approx(0.5)
