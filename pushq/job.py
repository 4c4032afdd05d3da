"""A job as a value: to be inserted, or claimed and handed to a worker."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from logging import Logger, getLogger
from typing import TYPE_CHECKING, Any, Generic, NamedTuple
from uuid import UUID

from pushq.lifespan import resources_here
from pushq.needs import Needs, units_of
from pushq.progress import UNCHANGED, checked, ledger
from pushq.recalled import recalled
from pushq.transactions import transaction_of

if TYPE_CHECKING:
    from asyncpg import Connection, Record
    from typing_extensions import TypeVar

    from pushq.artifacts import NewArtifact

    T = TypeVar("T", default=Any)
else:
    from typing import TypeVar

    T = TypeVar("T")


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
"""From a status to the possible next statuses. A finished job is queued again only by `pushq.retry`."""


class Job(NamedTuple, Generic[T]):
    """A claimed job, as `current_job()` and the middleware get it. The fields are columns of `pushq.jobs`.

    id: the row's id. task: the task's name. queue: the queue from which the job was claimed. payload: JSON text,
    decoded by the worker, so that a hostile payload hurts only its own job; None: too large for the claim, and fetched
    at the start; in the list of a batch handler: decoded, a `T`, or a dict without annotation. attempt: runs so far,
    this one included. failures: failed attempts so far. crashes: attempts so far that ended with their process.
    max_attempts: failures after which the job is failed; None: the task's. timeout: limit of the attempt; None: the
    task's. tenant_id: the owner. correlation_id: the producer's own reference. token: the claim's token. extras: what
    few jobs have, as JSON text: {"checkpoint", "traceparent", "all_events", "lane", "turn", "affinity",
    "affinity_changed", "share", "weight"}, each only if there; None: nothing.
    """

    id: UUID
    task: str
    queue: str
    payload: T
    attempt: int
    failures: int
    crashes: int
    max_attempts: int | None
    timeout: timedelta | None
    tenant_id: str | None
    correlation_id: str | None
    token: UUID
    extras: str | None = None

    @property
    def fence(self) -> tuple[UUID, UUID]:
        """(id, token), which identifies this claim among all claims of the job."""
        return self.id, self.token

    @property
    def cancelled(self) -> bool:
        """Whether the job was cancelled by hand while its handler runs. A `def` may look now and then, and return.

        An `async def` is cancelled instead. Behind a transaction pooler, and with `PUSHQ_WAKE=poll`, nobody is told.
        """
        return self.fence in recalled

    @property
    def checkpoint(self) -> Any:
        """What an earlier attempt gave `progress` as its checkpoint, as JSON is decoded. None: nothing."""
        return self._extra("checkpoint")

    @property
    def traceparent(self) -> str | None:
        """The producer's place in a trace: the header `traceparent` of W3C Trace Context. None: no trace."""
        traceparent: str | None = self._extra("traceparent")
        return traceparent

    @property
    def all_events(self) -> bool:
        """Whether every transition of the job is kept as an event."""
        return bool(self._extra("all_events"))

    @property
    def lane(self) -> str | None:
        """The jobs of the queue that need the same. None: the job needs nothing."""
        lane: str | None = self._extra("lane")
        return lane

    @property
    def turn(self) -> float:
        """Seconds for which jobs of the lane may follow one another."""
        return float(self._extra("turn") or 0.0)

    @property
    def affinity(self) -> str | None:
        """What the job shares with others that run well after one another on the same worker. None: nothing."""
        affinity: str | None = self._extra("affinity")
        return affinity

    @property
    def affinity_changed(self) -> bool:
        """Whether the last job with an affinity on this worker had another one: load what the job needs now.

        A worker's first job with an affinity has changed it. False for a job without affinity.
        """
        return bool(self._extra("affinity_changed"))

    def with_changed_affinity(self) -> Job[T]:
        """The job on a worker whose last job with an affinity had another one."""
        return self._replace(extras=json.dumps(self._extras() | {"affinity_changed": True}))

    @property
    def share(self) -> str | None:
        """Whose turn it is when the job runs. None: the queue is not fair."""
        share: str | None = self._extra("share")
        return share

    @property
    def weight(self) -> int:
        """How many jobs of the share are taken each time round."""
        return int(self._extra("weight") or 1)

    def _saved(self) -> dict[str, Any]:
        """What an earlier attempt has left in the column `progress`."""
        return {name: value for name, value in self._extras().items() if name == "checkpoint"}

    def _extra(self, name: str) -> Any:
        return self._extras().get(name)

    def _extras(self) -> dict[str, Any]:
        return json.loads(self.extras) if self.extras else {}

    def progress(
        self,
        done: float | None = None,
        total: float | None = None,
        message: str | None = None,
        *,
        phase: str | None = None,
        checkpoint: Any = UNCHANGED,
    ) -> None:
        """Tells how far the handler is, in the column `progress`, which is written once a second.

        What is not given stays as it was. done, total: numbers from 0 on, of any unit. message: at most 1,000
        characters are kept. phase: a name of at most 200 characters; a new phase is written at once, and is an event.
        checkpoint: JSON of at most 64 KiB, which the next attempt finds in `checkpoint`. May be called from any thread
        of the handler's process. Raises TypeError and ValueError for other values.
        """
        values = checked(done, total, message, phase, checkpoint)
        ledger.tell(self.fence, self._saved, values)

    def artifact(self, name: str, content_type: str = "application/octet-stream") -> NewArtifact:
        """A file to leave with the job, in place of what an earlier attempt has left under the name.

        In an `async def`: `async with current_job().artifact("x.png", "image/png") as file: await file.write(data)`. In
        a `def`: `with` instead, where the file is one for libraries that write to files. Readers see the artifact when
        the block ends; if the block raises, the artifact is given up. name: 1 to 200 characters, no path. Any thread of
        the handler's process may write.

        Raises ArtifactRefused for a name or content type that cannot be used, over a limit, for a name that this
        attempt has used, and if the job is no longer held by this attempt; DatabaseTrouble if the database is away for
        longer than 15 s, or refuses; TypeError for what is no str; and PushqError where no pool runs.
        """
        from pushq.artifacts import NewArtifact  # noqa: PLC0415 - a producer of jobs needs none

        return NewArtifact(self.fence, name, content_type)

    async def connection(self) -> Connection[Record]:
        """The connection of a transactional task: an asyncpg connection in the job's transaction.

        The first call begins the transaction, at read committed. When the handler returns, the result and the job's end
        are written in the same transaction, which is then committed. When the handler raises, times out or is
        cancelled, the transaction is rolled back. A nested `connection.transaction()` is a savepoint. The connection
        may not be used after the handler has returned, and the handler issues no COMMIT or ROLLBACK.

        Raises PushqError if the task is not transactional, and after the handler's end; DatabaseTrouble if the database
        is away for longer than 15 s, or refuses.
        """
        connection: Connection[Record] = await transaction_of(self.fence, self.task)
        return connection

    @property
    def resources(self) -> Any:
        """The value of the lifespan (`@tasks.lifespan`). Raises PushqError where there is none."""
        return resources_here()

    @property
    def logger(self) -> Logger:
        """The logger `pushq.task.NAME` of the job's task.

        In a handler of one job, each record knows the job's id, task and attempt.
        """
        return getLogger(f"pushq.task.{self.task}")


@dataclass(frozen=True, slots=True)
class NewJob:
    """A job to insert. The fields are the producer's columns of `pushq.jobs`; None takes the table's default.

    task: the task's name. payload: the handler's arguments by name, as JSON takes them. queue: the lane. priority: from
    -32768 to 32767; smaller numbers run first. run_at: the earliest start. max_attempts: failures after which the job
    is failed, 1 to 10,000. timeout: limit of one attempt, at most a year. unique_key: at most one unfinished job of a
    tenant may have this key. tenant_id: the owner. correlation_id: a reference of your own. id: for a job whose id you
    choose. traceparent: your place in a trace, the header of W3C Trace Context. webhook_url: the URL that is told the
    end of the job. needs: what the job holds while it runs, names with units or names alone, kept as a dict. limit_key:
    of the jobs with this key, one runs at a time. affinity: what the job shares with others that run well after one
    another on the same worker, a model say.

    Raises ValueError for a `run_at` without a time zone, for text with a NUL or a lone surrogate, which PostgreSQL does
    not take, and for needs that name something twice; and TypeError for a value of another type. To change a job, use
    `dataclasses.replace`.
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
    traceparent: str | None = None
    webhook_url: str | None = None
    needs: Needs | None = None
    limit_key: str | None = None
    affinity: str | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.payload, dict):
            _refuse("payload", self.payload, Mapping, "a dict: {'user_id': 42}")
        if self._is_usual():
            return
        for name, (kind, example) in _TYPES.items():
            value = getattr(self, name)
            if value is not None or name in ("task", "queue", "priority"):
                _refuse(name, value, kind, example)
                _refuse_unstorable(name, value)
        if self.needs is not None:
            object.__setattr__(self, "needs", _units(self.needs))
        if self.run_at is not None and self.run_at.utcoffset() is None:
            raise ValueError(
                f"run_at={self.run_at.isoformat()} has no time zone; give one, for example datetime.now(UTC)."
            )

    def _is_usual(self) -> bool:
        """Whether the job has no options, and a name, a queue and a priority: the quick answer for most jobs."""
        return (
            self.run_at is None
            and self.max_attempts is None
            and self.timeout is None
            and self.unique_key is None
            and self.tenant_id is None
            and self.correlation_id is None
            and self.traceparent is None
            and self.webhook_url is None
            and self.needs is None
            and self.limit_key is None
            and self.affinity is None
            and type(self.task) is type(self.queue) is str
            and type(self.priority) is int
            and self.task.isprintable()
            and self.queue.isprintable()
        )


_TYPES: Mapping[str, tuple[type, str]] = {
    "task": (str, "a str: 'mail.send'"),
    "queue": (str, "a str: 'mail'"),
    "priority": (int, "an int: -10"),
    "run_at": (datetime, "a datetime: datetime.now(UTC) + timedelta(hours=1)"),
    "max_attempts": (int, "an int: 5"),
    "timeout": (timedelta, "a timedelta: timedelta(seconds=30)"),
    "unique_key": (str, "a str: 'report:7'"),
    "tenant_id": (str, "a str: 'acme'"),
    "correlation_id": (str, "a str: 'order 7'"),
    "traceparent": (str, "a str: '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'"),
    "webhook_url": (str, "a str: 'https://example.com/hook'"),
    "limit_key": (str, "a str: 'account 7'"),
    "affinity": (str, "a str: 'llama-3'"),
}


def _refuse(name: str, value: object, kind: type, example: str) -> None:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"A job's {name} is {example}, not of type {type(value).__name__}.")


def _units(needs: object) -> dict[str, int] | None:
    try:
        units = units_of(needs)
    except (TypeError, ValueError) as error:
        raise type(error)(f"A job's {error}") from None
    for name in units or ():
        _refuse_unstorable("need", name)
    return units


_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def _refuse_unstorable(name: str, value: object) -> None:
    if isinstance(value, str) and (found := _UNSTORABLE.search(value)):
        what = "a NUL character" if found[0] == "\0" else "a lone surrogate"
        raise ValueError(f"A job's {name} has {what}, which PostgreSQL does not take: leave the character out.")
