"""Options that are weights of a known kind of loss: their raising must move something in a known direction.

An option has a role by its name, the field's own (`adv`, `bn`, `adv_weight`, `bn_weight`), or by what it says:

    gap: float = Field(0.5, ge=0, description="...", json_schema_extra={"role": "adversary"})
"""

from __future__ import annotations

from typing import Any, Literal

from dfkd_bench.errors import DfkdError
from dfkd_bench.stages.base import Stage

__all__ = ["ADVERSARY", "BATCHNORM", "Role", "options_of"]

Role = Literal["adversary", "batchnorm"]
ADVERSARY: Role = "adversary"
BATCHNORM: Role = "batchnorm"
_NAMES: dict[str, Role] = {"adv": ADVERSARY, "adv_weight": ADVERSARY, "bn": BATCHNORM, "bn_weight": BATCHNORM}


def options_of(stage: type[Stage[Any]], role: Role) -> list[str]:
    """Names of a stage's options that have a role.

    Raises:
        DfkdError: an option says that it has a role that is not known.
    """
    found = []
    for name, info in stage.Options.model_fields.items():
        extra = info.json_schema_extra
        own = extra.get("role") if isinstance(extra, dict) else None
        if own is not None and own not in _NAMES.values():
            raise DfkdError(f"{stage.__name__}'s option '{name}' has the role {own!r}: known are adversary, batchnorm")
        if role == (own or _NAMES.get(name)):
            found.append(name)
    return found
