"""Which runs that have a record are to be done again. Imports no torch."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

from dfkd_bench.results.code import changed
from dfkd_bench.results.records import Record

__all__ = ["Again"]


class Again(BaseModel):
    """What a user wants done again.

    Attributes:
        failed: what did not finish.
        stale: what other source made than is there now.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    failed: bool = False
    stale: bool = False

    def wants(self, record: Record) -> bool:
        """Whether a run with this record is done again."""
        if self.failed and record.status != "finished":
            return True
        return self.stale and bool(changed(record.environment.code, needed=True))

    def stands(self, found: Record | None, before: Record | None) -> bool:
        """Whether a record is not to be made again.

        Args:
            found: the record.
            before: what was there when the work was started: what another process wrote since then stands.
        """
        return found is not None and (not self.wants(found) or found != before)
