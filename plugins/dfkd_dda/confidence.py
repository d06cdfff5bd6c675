"""Filters by the teacher's confidence, a fixed one and TA-DFKD's lenient one (AAAI 2024)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from pydantic import Field, JsonValue
from torch import Tensor

from dfkd_bench import Filter, Passes, Projection, StageContext, StageOptions, SyntheticBatch, Workload
from dfkd_bench.stages.scores import ScoreHistory

__all__ = ["ConfidenceFilter", "LenientFilter", "Mixture", "fit_mixture", "low_posterior"]

OptionsT = TypeVar("OptionsT", bound=StageOptions)


class _ByScore(Filter[OptionsT]):
    """Keeps what scores above a bound, and remembers the scores."""

    what = ""

    def __init__(self, options: OptionsT, context: StageContext) -> None:
        super().__init__(options, context)
        self._history = ScoreHistory()

    @classmethod
    def projection(cls, options: OptionsT, load: Workload) -> Projection:
        """The teacher looks at each augmented image."""
        return Projection(passes=(Passes("teacher", load.variants),))

    @torch.no_grad()
    def keep(self, augmented: SyntheticBatch, source: SyntheticBatch) -> Tensor:
        """True where the score is high enough."""
        scores, keep = self._select(self.context.teacher(augmented.images).log_softmax(dim=1).amax(dim=1))
        self._history.add(scores, keep)
        return keep

    def _select(self, confidence: Tensor) -> tuple[Tensor, Tensor]:
        """Scores, and what stays, from log max_k p_T(k|x)."""
        raise NotImplementedError

    def report(self) -> dict[str, JsonValue]:
        """The scores' histograms."""
        return {"score": self.what, **self._history.report()}

    def state_dict(self) -> dict[str, Any]:
        """The histograms so far."""
        return self._history.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._history.load_state_dict(state)


class ConfidenceOptions(StageOptions):
    """Options of `confidence`."""

    threshold: float = Field(0.5, ge=0, le=1, description="least probability that the teacher gives its first guess")


class ConfidenceFilter(_ByScore[ConfidenceOptions]):
    """Keep a variant where max_k p_T(k|x) reaches the threshold, whatever class that is."""

    Options = ConfidenceOptions
    what = "the teacher's largest probability"

    def _select(self, confidence: Tensor) -> tuple[Tensor, Tensor]:
        scores = confidence.exp()
        return scores, scores >= self.options.threshold


class LenientOptions(StageOptions):
    """Options of `lenient`."""

    posterior: float = Field(
        0.5, ge=0, lt=1, description="a variant stays if it belongs to the confident component with more probability"
    )


class LenientFilter(_ByScore[LenientOptions]):
    """Keep a variant that the confident one of two groups holds, whatever the teacher's confidence is by number.

    l_i = -log max_k p_T(k|x_i), scaled to [0, 1] in the batch; a mixture of two normal distributions is fitted; the
    variant stays where the posterior of the component with the lower mean exceeds the bound. TA-DFKD selects among
    the student's batches so; here it selects among variants.
    """

    Options = LenientOptions
    what = "posterior of the confident component"

    def _select(self, confidence: Tensor) -> tuple[Tensor, Tensor]:
        losses = -confidence.double()
        low, high = (losses.min(), losses.max()) if len(losses) else (0, 0)
        if not len(losses) or float(high - low) < 1e-12:
            return torch.ones_like(confidence), torch.ones_like(confidence, dtype=torch.bool)
        scaled = (losses - low) / (high - low)
        scores = low_posterior(scaled, fit_mixture(scaled))
        return scores, scores > self.options.posterior


@dataclass(frozen=True)
class Mixture:
    """Two normal distributions on the line: weights, means and variances, each float64 [2]."""

    weights: Tensor
    means: Tensor
    variances: Tensor

    @staticmethod
    def of(values: Tensor, shares: Tensor, added: float) -> Mixture:
        """The M-step: the most likely one where component k holds the share `shares[:, k]` of each value.

        `added` is added to the variances, so that none collapses onto one value.
        """
        mass = shares.sum(dim=0) + 10 * torch.finfo(shares.dtype).eps
        means = (shares * values[:, None]).sum(dim=0) / mass
        spread = (shares * (values[:, None] - means).square()).sum(dim=0) / mass
        return Mixture(mass / len(values), means, spread + added)

    def log_joint(self, values: Tensor) -> Tensor:
        """log(w_k N(x_i; m_k, v_k)), [N, 2]."""
        distance = (values[:, None] - self.means).square() / self.variances
        return self.weights.log() - 0.5 * (distance + self.variances.log() + torch.log(torch.tensor(2 * torch.pi)))


def fit_mixture(values: Tensor, *, iterations: int = 10, tolerance: float = 1e-2, added: float = 5e-4) -> Mixture:
    """Expectation-maximization of two components, begun with the values below and above 0.5.

    Args:
        values: float64 [N] in [0, 1], some on both sides of 0.5.
        iterations: at most.
        tolerance: it ends when the mean log-likelihood changed less.
        added: to the variances in each step.
    """
    upper = (values > 0.5).double()
    mixture, before = Mixture.of(values, torch.stack((1 - upper, upper), dim=1), added), -torch.inf
    for _ in range(iterations):
        joint = mixture.log_joint(values)
        likelihood = float(joint.logsumexp(dim=1).mean())
        mixture = Mixture.of(values, joint.softmax(dim=1), added)
        if abs(likelihood - before) < tolerance:
            break
        before = likelihood
    return mixture


def low_posterior(values: Tensor, mixture: Mixture) -> Tensor:
    """The probability that each value is from the component with the lower mean, [N]."""
    return mixture.log_joint(values).softmax(dim=1)[:, int(mixture.means.argmin())]
