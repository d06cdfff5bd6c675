"""Distillation and adversarial losses between a student's and a teacher's logits, float32 [N, K]."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["agreement_adversary", "js_divergence", "kl_divergence", "released_js"]


def kl_divergence(student: Tensor, teacher: Tensor, tau: float = 1.0) -> Tensor:
    """KL_tau(s, t) = tau^2 / N sum_i KL(softmax(t_i / tau) || softmax(s_i / tau)) (Hinton et al., arXiv 1503.02531)."""
    log_q = F.log_softmax(student / tau, dim=1)
    log_p = F.log_softmax(teacher / tau, dim=1)
    return F.kl_div(log_q, log_p, reduction="batchmean", log_target=True) * tau**2


def agreement_adversary(student: Tensor, teacher: Tensor) -> Tensor:
    """L_adv of CMI (arXiv 2105.08584, "decision adversarial"): minus KL_1, only where student and teacher agree.

    Divided by the whole batch N, not by the number that agree; the mask has no gradient.
    """
    log_q = F.log_softmax(student, dim=1)
    log_p = F.log_softmax(teacher, dim=1)
    per_image = F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(dim=1)
    agree = (student.argmax(dim=1) == teacher.argmax(dim=1)).to(per_image.dtype)
    return -(per_image * agree).sum() / len(student)


def released_js(student: Tensor, teacher: Tensor, tau: float = 3.0) -> Tensor:
    """J(s, t) as DeepInversion's released code has it, which is not the Jensen-Shannon divergence (fault B02).

    1/2 KL(M || P) + 1/2 KL(M || Q), P = softmax(s / tau), Q = softmax(t / tau), M = (P + Q) / 2, each clamped to
    [0.01, 0.99] after M is formed and not renormalized; batch mean. 0 for s = t, 1.6144 for disjoint one-hots; no
    gradient reaches a class whose probability is below 0.01.
    """
    p, q = F.softmax(student / tau, dim=1), F.softmax(teacher / tau, dim=1)
    m = (0.5 * (p + q)).clamp(0.01, 0.99)
    p, q = p.clamp(0.01, 0.99), q.clamp(0.01, 0.99)
    # KL(M || P) = sum M log(M / P): the mixture stands in the first place, where the definition has it second.
    to_p = (m * (m.log() - p.log())).sum(dim=1).mean()
    to_q = (m * (m.log() - q.log())).sum(dim=1).mean()
    return 0.5 * to_p + 0.5 * to_q


def js_divergence(student: Tensor, teacher: Tensor, tau: float = 3.0) -> Tensor:
    """The Jensen-Shannon divergence of softmax(s / tau) and softmax(t / tau), batch mean, in nats (at most ln 2)."""
    log_p, log_q = F.log_softmax(student / tau, dim=1), F.log_softmax(teacher / tau, dim=1)
    log_m = torch.logaddexp(log_p, log_q) - torch.log(torch.tensor(2.0, device=log_p.device))
    to_m = F.kl_div(log_m, log_p, reduction="batchmean", log_target=True)
    return 0.5 * to_m + 0.5 * F.kl_div(log_m, log_q, reduction="batchmean", log_target=True)
