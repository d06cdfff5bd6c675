"""DDA's filter (arXiv 2410.17606): a variant stays if its embedding is near its source's."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench import Filter, StageOptions, SyntheticBatch


class CosineOptions(StageOptions):
    """Options of `cosine`."""

    threshold: float = Field(0.75, ge=-1, le=1, description="least cosine similarity to the source (omega)")
    embedding: Literal["features", "logits"] = Field(
        "features", description="what is compared: the teacher's penultimate features, or its logits"
    )


def cosine_similarity(augmented: Tensor, source: Tensor) -> Tensor:
    """M_k = cos(G_k, F_syn), one for each row of two [N, D] embeddings; raw, not centered."""
    return F.cosine_similarity(augmented, source, dim=1)


class CosineFilter(Filter[CosineOptions]):
    """Keep a variant where M_k >= omega."""

    Options = CosineOptions

    def keep(self, augmented: SyntheticBatch, source: SyntheticBatch) -> Tensor:
        """True where the cosine reaches the threshold."""
        assert augmented.source is not None
        near = cosine_similarity(self._embed(augmented), self._embed(source)[augmented.source])
        return near >= self.options.threshold

    def _embed(self, batch: SyntheticBatch) -> Tensor:
        seen = self.context.teacher.observe(batch.images)
        return seen.features.flatten(1) if self.options.embedding == "features" else seen.logits
