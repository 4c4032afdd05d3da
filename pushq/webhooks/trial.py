"""One delivery by hand, to try a receiver before it is subscribed."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID, uuid4

from pushq.webhooks.addresses import Network
from pushq.webhooks.body import body_of
from pushq.webhooks.http import Answer, Poster, Resolver
from pushq.webhooks.signature import headers
from pushq.webhooks.target import target_of


@dataclass(frozen=True, slots=True)
class Trial:
    """webhook_id: the header of the delivery. seconds: from the look-up of the name to the end of the answer."""

    webhook_id: UUID
    answer: Answer
    seconds: float


async def try_out(url: str, allowed: Sequence[Network], secrets: Sequence[str], shape: str) -> Trial:
    """Sends an event `job.test` as a delivery is sent. Raises UrlRefused, AddressRefused, NoAnswer, SecretUnusable."""
    target = target_of(url)
    webhook_id, now = uuid4(), datetime.now(UTC)
    data = {"id": str(uuid4()), "task": "pushq.test", "queue": "default", "status": "test", "attempt": 1}
    body = body_of(shape, "job.test", now.isoformat(), data)
    given = headers(webhook_id, secrets, round(now.timestamp()), body)
    began = time.monotonic()
    answer = await Poster(Resolver(1), allowed).post(target, given, body)
    return Trial(webhook_id, answer, time.monotonic() - began)
