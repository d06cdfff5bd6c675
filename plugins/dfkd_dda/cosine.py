"""DDA's filter (arXiv 2410.17606): a variant stays if its embedding is near its source's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor
from torch.nn import functional as F

from dfkd_bench import (
    DatasetCard,
    DfkdError,
    Filter,
    Passes,
    Projection,
    StageContext,
    StageOptions,
    SyntheticBatch,
    Workload,
)
from dfkd_bench.method import Prior
from dfkd_bench.stages.requirements import NetworkFacts
from dfkd_bench.stages.scores import ScoreHistory
from dfkd_dda.image_variation import normalized
from dfkd_dda.pipelines import in_color, resize
from dfkd_dda.pretrained import find_model, load_pretrained, quiet

__all__ = ["CosineFilter", "CosineOptions", "cosine_similarity"]


class CosineOptions(StageOptions):
    """Options of `cosine`."""

    added = frozenset({"fraction", "clip_model"})

    threshold: float = Field(0.75, ge=-1, le=1, description="least cosine similarity to the source (omega)")
    embedding: Literal["features", "logits", "pixels", "clip"] = Field(
        "features",
        description="what is compared: the teacher's penultimate features, its logits, the pixels, or CLIP's embedding",
    )
    fraction: float | None = Field(
        None, gt=0, le=1, description="keep this part of each batch of variants, the nearest; none: by the threshold"
    )
    clip_model: str | None = Field(None, description="folder or cached repository of the CLIP image encoder")

    @model_validator(mode="after")
    def _has_clip(self) -> CosineOptions:
        if (self.embedding == "clip") != (self.clip_model is not None):
            raise ValueError("embedding=clip and clip_model go together: give both or neither")
        return self


def cosine_similarity(augmented: Tensor, source: Tensor) -> Tensor:
    """M_k = cos(G_k, F_syn), one for each row of two [N, D] embeddings; raw, not centered."""
    return F.cosine_similarity(augmented, source, dim=1)


class CosineFilter(Filter[CosineOptions]):
    """Keep a variant where M_k >= omega, or the fraction with the largest M_k.

    One that was mixed of several images is compared with the nearest of them.
    """

    Options = CosineOptions

    def __init__(self, options: CosineOptions, context: StageContext) -> None:
        super().__init__(options, context)
        self._history, self._clip = ScoreHistory(), None
        if options.clip_model is not None:
            self._clip = _load_clip(options.clip_model, context)

    @classmethod
    def prior_with(cls, options: CosineOptions) -> Prior:
        """CLIP learned from web images."""
        return "image" if options.embedding == "clip" else "none"

    @classmethod
    def unmet(
        cls, options: CosineOptions, teacher: NetworkFacts, student: NetworkFacts, card: DatasetCard
    ) -> str | None:
        """A CLIP encoder that is not on this machine."""
        if options.clip_model is None or find_model(options.clip_model, None, "config.json") is not None:
            return None
        return _absent(options.clip_model)

    @classmethod
    def projection(cls, options: CosineOptions, load: Workload) -> Projection | None:
        """The teacher looks at each augmented image and each source; CLIP's passes are not projected."""
        if options.embedding == "clip":
            return None
        seen = 0 if options.embedding == "pixels" else load.variants + load.sources
        return Projection(passes=(Passes("teacher", seen),))

    def keep(self, augmented: SyntheticBatch, source: SyntheticBatch) -> Tensor:
        """True where the cosine reaches the threshold, or is among the largest."""
        assert augmented.source is not None
        made, sources = self._embed(augmented), self._embed(source)
        parents = augmented.source.unsqueeze(1) if augmented.source.dim() == 1 else augmented.source
        near = torch.stack([cosine_similarity(made, sources[of]) for of in parents.unbind(dim=1)]).amax(dim=0)
        fraction = self.options.fraction
        if fraction is None:
            keep = near >= self.options.threshold
        else:
            keep = torch.zeros_like(near, dtype=torch.bool)
            keep[near.topk(math.ceil(fraction * len(near))).indices] = True
        self._history.add(near, keep)
        return keep

    @torch.no_grad()
    def _embed(self, batch: SyntheticBatch) -> Tensor:
        if self.options.embedding == "pixels":
            return batch.images.flatten(1)
        if self._clip is not None:
            side = self._clip.config.image_size
            seen = normalized(resize(in_color(batch.images), (side, side))).to(self._clip.dtype)
            with quiet():
                embedded: Tensor = self._clip(seen).image_embeds
            return embedded.float()
        observed = self.context.teacher.observe(batch.images)
        return observed.features.flatten(1) if self.options.embedding == "features" else observed.logits

    def report(self) -> dict[str, JsonValue]:
        """The cosines' histograms."""
        return {"score": f"cosine of {self.options.embedding}", **self._history.report()}

    def state_dict(self) -> dict[str, Any]:
        """The histograms so far."""
        return self._history.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        self._history.load_state_dict(state)


def _absent(model: str) -> str:
    return (
        f"needs the CLIP image encoder '{model}', which is not on this machine: get it with `hf download {model}` "
        "while online (0.4 to 2.5 GB), or name a local copy with --set filter.clip_model=FOLDER"
    )


def _load_clip(model: str, context: StageContext) -> Any:
    from transformers import CLIPVisionModelWithProjection  # takes seconds, and whoever only plans needs none of it

    folder: Path | None = find_model(model, None, "config.json")
    if folder is None:
        raise DfkdError(f"the filter {_absent(model)}")
    encoder = load_pretrained(CLIPVisionModelWithProjection, folder, context.device, safetensors=True)
    encoder.eval().requires_grad_(False)
    context.ledger.watch(encoder, "clip-encoder")
    return encoder
