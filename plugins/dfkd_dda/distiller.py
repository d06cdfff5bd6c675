"""DDA's distiller: L_KL + L_self (arXiv 2410.17606).

The sources that could be read name L_self and two student-side modules that feed it, and define neither; so it is
off by default, and what can be switched on is our reading: the student also tells by how many quarter turns an image
was turned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from dfkd_bench import (
    DfkdError,
    Distiller,
    Network,
    Passes,
    Projection,
    StageContext,
    StageOptions,
    SyntheticBatch,
    Workload,
)
from dfkd_bench.blocks.kd import kl_divergence
from dfkd_bench.blocks.rotation import quarter_turns


class DdaOptions(StageOptions):
    """Options of the distiller `dda`."""

    tau: float = Field(20.0, gt=0, description="temperature of both players' softmax")
    self_loss: Literal["none", "rotation"] = Field("none", description="L_self: none, or telling quarter turns apart")
    self_weight: float = Field(1.0, ge=0, description="weight of L_self")


class DdaDistiller(Distiller[DdaOptions]):
    """KL_tau(s, t), and on demand self_weight * CE(psi(phi(f_S(rot_k x))), k)."""

    Options = DdaOptions
    capturable = True

    @classmethod
    def projection(cls, options: DdaOptions, load: Workload) -> Projection:
        """Teacher and student look at each image, the student at a turned one, too, if L_self is on."""
        seen = load.student_images
        learned = seen * (2 if options.self_loss == "rotation" else 1)
        return Projection(passes=(Passes("teacher", seen), Passes("student", learned, learned, trained=True)))

    def __init__(self, options: DdaOptions, context: StageContext) -> None:
        super().__init__(options, context)
        self.head: nn.Module | None = None
        if options.self_loss == "rotation":
            _, height, width = context.card.image_shape
            if height != width:
                raise DfkdError(f"self_loss=rotation turns square images; {context.card.name}'s are {height}x{width}")
            dim = context.student.feature_dim
            with context.seeded():
                phi_psi = nn.Sequential(nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, 4))
            self.head = phi_psi.to(context.device)

    def losses(self, student: Network, teacher: Network, batch: SyntheticBatch) -> dict[str, Tensor]:
        """`kd`, and `self` if it is on."""
        with torch.no_grad():
            wanted = teacher(batch.images)
        losses = {"kd": kl_divergence(student(batch.images), wanted, self.options.tau)}
        if self.head is not None:
            turned, turns = quarter_turns(batch.images)
            logits = self.head(student.observe(turned).features)
            losses["self"] = self.options.self_weight * F.cross_entropy(logits, turns)
        return losses

    def parameters(self) -> Iterator[nn.Parameter]:
        """Those of the two modules."""
        return iter(()) if self.head is None else self.head.parameters()

    def state_dict(self) -> dict[str, Any]:
        """The two modules' weights."""
        return {} if self.head is None else {"head": self.head.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from `state`."""
        if self.head is not None:
            self.head.load_state_dict(state["head"])
