"""What the delivering pool says to the database, beside what every pool says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import UUID

from pushq.database.speaker import Speaker


@dataclass(frozen=True, slots=True)
class Found:
    """What delivery.sql has found. The secrets stay out of every text that is made of this."""

    url: str | None
    secrets: Sequence[str] | None = field(repr=False)
    body: str | None
    is_paused: bool
    earlier: Sequence[UUID]
    due_in: float | None
    now: int


class Store(Speaker):
    async def find(self, told_job: UUID, tenant: str | None, webhook: UUID | None, number: int) -> Found:
        """The webhook of a delivery, and the deliveries that come before. webhook: None for a job's own URL."""
        return Found(**await self._one("delivery", told_job, tenant, webhook, number))

    async def pause(self, webhook: UUID, url: str) -> bool:
        """Pauses a webhook, unless it has another URL by now. Returns whether the call has paused it."""
        return bool(await self._fetch("pause_webhook", webhook, url))
