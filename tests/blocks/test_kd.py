from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from dfkd_bench.blocks.kd import agreement_adversary, js_divergence, kl_divergence, released_js


def logits_of(*rows: tuple[float, ...], tau: float = 1.0) -> Tensor:
    """Logits whose softmax at temperature tau has these rows."""
    return tau * torch.tensor(rows).log()


EVEN, SKEWED = (0.5, 0.5), (0.25, 0.75)


def test_kl_goes_from_teacher_to_student():
    # 1/2 ln(0.5 / 0.25) + 1/2 ln(0.5 / 0.75); the other way round it is 0.1308.
    assert float(kl_divergence(logits_of(SKEWED), logits_of(EVEN))) == pytest.approx(0.5 * math.log(4 / 3), rel=1e-5)
    other = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
    assert float(kl_divergence(logits_of(EVEN), logits_of(SKEWED))) == pytest.approx(other, rel=1e-5)


def test_kl_softens_both_players_and_is_multiplied_by_tau_squared():
    found = kl_divergence(logits_of(SKEWED, tau=20.0), logits_of((0.4, 0.6), tau=20.0), tau=20.0)
    by_hand = 0.4 * math.log(0.4 / 0.25) + 0.6 * math.log(0.6 / 0.75)
    assert float(found) == pytest.approx(400 * by_hand, rel=1e-3)


def test_kl_is_divided_by_the_images_not_by_the_entries():
    student, teacher = logits_of(SKEWED, EVEN, EVEN, EVEN), logits_of(EVEN, EVEN, EVEN, EVEN)
    assert float(kl_divergence(student, teacher)) == pytest.approx(0.5 * math.log(4 / 3) / 4, rel=1e-5)


# Row 0 agrees on class 1. Row 1 does not: class 0 against class 1.
STUDENT = ((0.2, 0.8), (0.9, 0.1), (0.3, 0.7), (0.6, 0.4))
TEACHER = ((0.4, 0.6), (0.2, 0.8), (0.8, 0.2), (0.7, 0.3))


def kl(p: tuple[float, ...], q: tuple[float, ...]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


def test_the_adversary_is_minus_the_kl_of_agreeing_rows_over_the_whole_batch():
    found = float(agreement_adversary(logits_of(*STUDENT), logits_of(*TEACHER)))
    assert found == pytest.approx(-(kl(TEACHER[0], STUDENT[0]) + kl(TEACHER[3], STUDENT[3])) / 4, rel=1e-5)
    assert found < 0


def test_the_adversary_is_zero_where_nobody_agrees():
    assert float(agreement_adversary(logits_of(STUDENT[1]), logits_of(TEACHER[1]))) == 0.0


def test_the_adversarys_gradient_is_that_of_the_kl_alone_and_nothing_in_disagreeing_rows():
    student, teacher = logits_of(*STUDENT).requires_grad_(), logits_of(*TEACHER).requires_grad_()
    agreement_adversary(student, teacher).backward()
    # dKL(p || softmax(s))/ds = q - p, here with the sign turned and over N = 4.
    expected = [[(p - q) / 4 for p, q in zip(TEACHER[row], STUDENT[row], strict=True)] for row in (0, 3)]
    torch.testing.assert_close(student.grad[[0, 3]], torch.tensor(expected), rtol=1e-4, atol=1e-6)
    assert not student.grad[[1, 2]].any()
    assert not teacher.grad[[1, 2]].any()
    # dKL(p || q)/dt_j = p_j (ln p_j/q_j - KL).
    p, q = np.array(TEACHER[0]), np.array(STUDENT[0])
    by_hand = -p * (np.log(p / q) - kl(TEACHER[0], STUDENT[0])) / 4
    assert teacher.grad[0].tolist() == pytest.approx(by_hand.tolist(), rel=1e-4)


ONE_HOTS = torch.tensor([[3000.0, 0.0]]), torch.tensor([[0.0, 3000.0]])


def test_released_js_is_zero_for_equal_logits():
    logits = torch.tensor([[1.0, -2.0, 7.0], [0.0, 0.5, 0.3]])
    assert float(released_js(logits, logits.clone())) == pytest.approx(0.0, abs=1e-7)


def test_released_js_of_disjoint_one_hots_is_far_above_what_a_js_divergence_can_be():
    # Clamped to 0.99 and 0.01, the mixture is one half each: 1/2 ln(0.5 / 0.99) + 1/2 ln(0.5 / 0.01).
    assert float(released_js(*ONE_HOTS)) == pytest.approx(1.6144, abs=1e-4)
    assert float(released_js(*ONE_HOTS)) == pytest.approx(0.5 * math.log(0.25 / 0.0099), rel=1e-5)


def test_released_js_has_the_mixture_first_softens_by_three_and_averages_over_the_batch():
    p, q = (0.2, 0.8), (0.6, 0.4)
    value = (kl((0.4, 0.6), p) + kl((0.4, 0.6), q)) / 2
    found = released_js(logits_of(p, EVEN, tau=3.0), logits_of(q, EVEN, tau=3.0))
    assert float(found) == pytest.approx(value / 2, rel=1e-5)
    assert float(released_js(logits_of(p), logits_of(q), tau=1.0)) == pytest.approx(value, rel=1e-5)


def test_released_js_clamps_after_mixing_and_does_not_renormalize():
    p, q = (0.002, 0.998), (0.1, 0.9)
    # The mixture is (0.051, 0.949); clamped first it would be (0.055, 0.945).
    m, p_clamped = (0.051, 0.949), (0.01, 0.99)
    value = 0.5 * kl(m, p_clamped) + 0.5 * kl(m, q)
    assert float(released_js(logits_of(p), logits_of(q), tau=1.0)) == pytest.approx(value, rel=1e-4)


def test_released_js_gives_no_gradient_where_both_players_are_below_a_hundredth():
    p, q = np.array([0.6, 0.396, 0.004]), np.array([0.5, 0.495, 0.005])
    student = logits_of(tuple(p), tau=3.0).requires_grad_()
    released_js(student, logits_of(tuple(q), tau=3.0)).backward()
    m = (p + q) / 2
    by_p = 0.25 * (np.log(m / p) + 1) - 0.5 * m / p + 0.25 * (np.log(m / q) + 1)
    by_p[2] = 0  # clamped
    by_hand = p * (by_p - (p * by_p).sum()) / 3
    assert student.grad[0].tolist() == pytest.approx(by_hand.tolist(), rel=1e-3, abs=1e-8)


def test_released_js_is_dead_for_confident_players_where_the_true_divergence_is_not():
    confident = torch.tensor([[30.0, 0.0, 1.0]]), torch.tensor([[30.0, 1.0, 0.0]])
    for divergence, alive in ((released_js, False), (js_divergence, True)):
        student = confident[0].clone().requires_grad_()
        divergence(student, confident[1]).backward()
        assert bool(student.grad.any()) is alive


def test_the_true_js_divergence_has_the_value_of_its_definition():
    p, q, m = (0.2, 0.8), (0.6, 0.4), (0.4, 0.6)
    value = (kl(p, m) + kl(q, m)) / 2
    found = js_divergence(logits_of(p, EVEN, tau=3.0), logits_of(q, EVEN, tau=3.0))
    assert float(found) == pytest.approx(value / 2, rel=1e-4)
    assert float(js_divergence(logits_of(p), logits_of(q), tau=1.0)) == pytest.approx(value, rel=1e-4)


def test_the_true_js_divergence_is_at_most_ln_2():
    assert float(js_divergence(*ONE_HOTS)) == pytest.approx(math.log(2), rel=1e-5)
    rows = 30 * torch.randn(2, 200, 10, generator=torch.Generator().manual_seed(0))
    found = [float(js_divergence(s[None], t[None], tau=1.0)) for s, t in zip(*rows, strict=True)]
    assert max(found) <= math.log(2) + 1e-5
    assert min(found) >= -1e-6
