"""The claims of this process that were taken back by hand: by `pushq.cancel` and the like."""

from __future__ import annotations

from uuid import UUID

recalled: set[tuple[UUID, UUID]] = set()
"""By (id, token). A claim leaves the set when the job's handler has ended."""
