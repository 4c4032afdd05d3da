"""A job as a value: to be inserted, or claimed and handed to a worker."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID


class Status(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def is_finished(self) -> bool:
        return self not in (Status.QUEUED, Status.RUNNING)


TRANSITIONS: Mapping[Status, frozenset[Status]] = {
    Status.QUEUED: frozenset({Status.RUNNING, Status.CANCELLED}),
    Status.RUNNING: frozenset({Status.SUCCEEDED, Status.FAILED, Status.CANCELLED, Status.QUEUED}),
    Status.SUCCEEDED: frozenset({Status.QUEUED}),
    Status.FAILED: frozenset({Status.QUEUED}),
    Status.CANCELLED: frozenset({Status.QUEUED}),
}
"""Where a job may go from where it is. A finished one goes back only by `pushq.retry`."""


class Job(NamedTuple):
    """A claimed job.

    payload is JSON text: the worker decodes it, so that a hostile one hurts only its own job. It is None where it was
    too large to come with the claim: the worker fetches it when it begins.
    """

    id: UUID
    task: str
    queue: str
    payload: str | None
    attempt: int
    failures: int
    crashes: int
    max_attempts: int | None
    timeout: timedelta | None
    tenant_id: str | None
    correlation_id: str | None
    token: UUID

    @property
    def fence(self) -> tuple[UUID, UUID]:
        """What tells this claim of the job from every other."""
        return self.id, self.token


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to insert. The fields are the producer's columns of `pushq.jobs`; None takes the table's default.

    Raises ValueError for a `run_at` without a time zone. Change one with `dataclasses.replace`.
    """

    task: str
    payload: Mapping[str, object] = field(default_factory=dict)
    queue: str = "default"
    priority: int = 0
    run_at: datetime | None = None
    max_attempts: int | None = None
    timeout: timedelta | None = None
    unique_key: str | None = None
    tenant_id: str | None = None
    correlation_id: str | None = None
    id: UUID | None = None

    def __post_init__(self) -> None:
        if self.run_at is not None and self.run_at.utcoffset() is None:
            raise ValueError(
                f"run_at={self.run_at.isoformat()} has no time zone; give one, for example datetime.now(UTC)."
            )
