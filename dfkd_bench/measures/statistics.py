"""Statistics of sets of feature vectors: how much they vary, and how near one set is to another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Coverage", "coverage", "frechet_distance", "kernel_distance", "mean_pairwise_cosine", "vendi_score"]


def mean_pairwise_cosine(features: Tensor) -> float:
    """The mean cosine of all pairs of two different rows of [N, D]; 1 where all point the same way."""
    total = F.normalize(features.double(), dim=1).sum(dim=0).square().sum()
    count = len(features)
    return float((total - count) / (count * (count - 1)))


def vendi_score(features: Tensor) -> float:
    """The effective number of different rows of [N, D], from 1 to N (Friedman and Dieng, arXiv 2210.02410).

    The exponential of the entropy of the eigenvalues of K / N, K the matrix of the rows' cosines.
    """
    unit = F.normalize(features.double(), dim=1)
    # The two products have the same eigenvalues but for zeros: the smaller one is taken.
    product = unit @ unit.T if len(unit) <= unit.shape[1] else unit.T @ unit
    eigenvalues = torch.linalg.eigvalsh(product / len(unit)).clamp_min(0)
    eigenvalues = eigenvalues[eigenvalues > 1e-12]
    return float(torch.exp(-(eigenvalues * eigenvalues.log()).sum()))


@dataclass(frozen=True)
class Coverage:
    """How one set covers another, each from 0 to 1 but for `density`, which may be larger.

    Attributes:
        precision: part of the made ones inside the real ones' neighborhoods.
        recall: part of the real ones inside the made ones' neighborhoods.
        density: real neighborhoods around a made one, by the number that is expected of equal sets.
        coverage: part of the real neighborhoods with a made one inside.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(real: Tensor, made: Tensor, nearest: int = 5) -> Coverage:
    """Precision and recall (arXiv 1904.06991), density and coverage (arXiv 2002.09797), of [N, D] and [M, D].

    A row's neighborhood is the ball that reaches to its `nearest`-th neighbor among the rows of its own set.

    Raises:
        ValueError: a set has no more than `nearest` rows.
    """
    if min(len(real), len(made)) <= nearest:
        raise ValueError(f"neighborhoods of {nearest} neighbors need more than {nearest} images in each set")
    real, made = real.double(), made.double()
    of_real, of_made = (torch.cdist(each, each).kthvalue(nearest + 1, dim=1).values for each in (real, made))
    apart = torch.cdist(real, made)  # [N, M]
    inside_real, inside_made = apart < of_real[:, None], apart < of_made[None, :]
    return Coverage(
        precision=float(inside_real.any(dim=0).double().mean()),
        recall=float(inside_made.any(dim=1).double().mean()),
        density=float(inside_real.sum(dim=0).double().mean() / nearest),
        coverage=float((apart.amin(dim=1) < of_real).double().mean()),
    )


def frechet_distance(real: Tensor, made: Tensor) -> float:
    """FID: |m_r - m_s|^2 + tr(C_r + C_s - 2 (C_r C_s)^(1/2)) of the features [N, D] and [M, D] (arXiv 1706.08500)."""
    (mean, cov), (other_mean, other_cov) = ((x.double().mean(dim=0), torch.cov(x.double().T)) for x in (real, made))
    cov, other_cov = (torch.atleast_2d(each) for each in (cov, other_cov))
    values, vectors = torch.linalg.eigh(cov)
    root = vectors * values.clamp_min(0).sqrt() @ vectors.T
    # Of the symmetric product, which has the eigenvalues of C_r C_s.
    cross = torch.linalg.eigvalsh(root @ other_cov @ root).clamp_min(0).sqrt().sum()
    return float((mean - other_mean).square().sum() + cov.trace() + other_cov.trace() - 2 * cross)


def kernel_distance(real: Tensor, made: Tensor) -> float:
    """KID: the unbiased squared MMD with the kernel (x.y / D + 1)^3 (arXiv 1801.01401), of the whole sets."""
    real, made = real.double(), made.double()

    def kernel(one: Tensor, other: Tensor) -> Tensor:
        return (one @ other.T / one.shape[1] + 1) ** 3

    def without_self(each: Tensor) -> Tensor:
        products = kernel(each, each)
        return (products.sum() - products.trace()) / (len(each) * (len(each) - 1))

    return float(without_self(real) + without_self(made) - 2 * kernel(real, made).mean())
