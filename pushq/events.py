"""Facts about a running pushq. The part that learns a fact publishes the fact once; logs, figures and tests subscribe.

Subscribers are module state, because a process has one supervisor or one pool. With a second, subscribers would hear
both.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Self, get_args
from uuid import UUID

from pushq.outcome import Outcome

Level = Literal["debug", "info", "warning", "error"]
LEVELS: tuple[Level, ...] = get_args(Level)
Wakeup = Literal["notify", "poll", "timer", "linger"]
WAKEUPS: tuple[Wakeup, ...] = get_args(Wakeup)

_LOUD_OUTCOMES: Mapping[str, Level] = {"failed": "error", "retried": "warning"}


@dataclass(frozen=True, slots=True)
class Event:
    """A fact, with the level and topic for a log.

    Level and topic belong to the class of event. If one depends on the event's fields, a property takes its place.
    """

    level: ClassVar[Level] = "info"
    is_always_logged: ClassVar[bool] = False
    """Whether every log shows the event, at any level of the log."""
    topic: ClassVar[str | None] = None
    """A lasting state, whose events are published again and again, and logged once a minute. None: each is logged."""
    ends: ClassVar[str | None] = None
    """The topic that ends with this event. The end is logged if the topic was logged."""


@dataclass(frozen=True, slots=True)
class JobEnded(Event):
    """An attempt has ended, and the outcome is stored. seconds: of the handler's run.

    message and traceback may hold secrets: a log shows both only if PUSHQ_LOG_ERRORS=full.
    """

    id: UUID
    task: str
    queue: str
    attempt: int
    outcome: str
    seconds: float
    error: str | None = None  # the error's type alone, since the message may hold secrets
    place: str | None = None  # FILE:LINE, the innermost frame in the user's code
    message: str | None = None
    traceback: str | None = None

    @property
    def level(self) -> Level:  # type: ignore[override]
        return _LOUD_OUTCOMES.get(self.outcome, "debug")

    @classmethod
    def of(cls, outcome: Outcome) -> Self:
        job, seconds = outcome.job, outcome.ended - outcome.began
        told = (outcome.error_type, outcome.place, outcome.error, outcome.traceback)
        return cls(job.id, job.task, job.queue, job.attempt, outcome.kind, seconds, *told)


@dataclass(frozen=True, slots=True)
class JobsEnded(Event):
    """The outcomes of a batch of attempts are stored. JobEnded.of() makes an event of each outcome."""

    level: ClassVar[Level] = "debug"
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class JobRecalled(Event):
    """A job was cancelled by hand while it ran here. handler: stopped, returned, raised, or did not begin."""

    id: UUID
    task: str
    handler: str
    seconds: float


@dataclass(frozen=True, slots=True)
class OutcomeRefused(Event):
    """An outcome came too late: the job was cancelled, or requeued meanwhile."""

    level: ClassVar[Level] = "warning"
    id: UUID
    task: str
    outcome: str


@dataclass(frozen=True, slots=True)
class WaitersNotTold(Event):
    """The ends of jobs could not be told to those that wait. Each looks again within seconds."""

    level: ClassVar[Level] = "warning"
    jobs: int
    reason: str


@dataclass(frozen=True, slots=True)
class ProgressNotWritten(Event):
    """What handlers have told of their progress could not be written. It is written a second later, or with the end."""

    level: ClassVar[Level] = "warning"
    jobs: int
    reason: str


@dataclass(frozen=True, slots=True)
class OutcomesHeldUp(Event):
    """Other sessions have locked the rows of ended jobs. The outcomes are written when the rows are free."""

    level: ClassVar[Level] = "warning"
    jobs: int


@dataclass(frozen=True, slots=True)
class OutcomesPutAside(Event):
    """The database rejects the outcomes of `jobs` jobs, each for a reason of its own. Each outcome is tried again."""

    level: ClassVar[Level] = "warning"
    topic: ClassVar[str | None] = "outcomes"
    jobs: int
    reason: str


@dataclass(frozen=True, slots=True)
class NoThread(Event):
    """The system had no thread for a `def`. The job is given back, and the worker rests before the next job."""

    level: ClassVar[Level] = "warning"
    topic: ClassVar[str | None] = "threads"
    reason: str


@dataclass(frozen=True, slots=True)
class JobsClaimed(Event):
    level: ClassVar[Level] = "debug"
    jobs: int


@dataclass(frozen=True, slots=True)
class JobsPassedOver(Event):
    """The database rejects the claims of `jobs` jobs, each for a reason of its own. Each claim is tried again."""

    level: ClassVar[Level] = "warning"
    topic: ClassVar[str | None] = "claims"
    jobs: int
    reason: str


@dataclass(frozen=True, slots=True)
class WokenUp(Event):
    """An idle pool looks for jobs again."""

    level: ClassVar[Level] = "debug"
    source: Wakeup


@dataclass(frozen=True, slots=True)
class NotificationReceived(Event):
    level: ClassVar[Level] = "debug"


@dataclass(frozen=True, slots=True)
class BellUp(Event):
    """The pool hears notifications: a canary has come back."""


@dataclass(frozen=True, slots=True)
class BellDown(Event):
    """The pool does not hear notifications, and polls instead."""

    level: ClassVar[Level] = "warning"
    reason: str


@dataclass(frozen=True, slots=True)
class DatabaseLost(Event):
    """The database is away. The process waits, and tries again."""

    level: ClassVar[Level] = "warning"
    topic: ClassVar[str | None] = "database"
    reason: str


@dataclass(frozen=True, slots=True)
class StatementRejected(DatabaseLost):
    """The database rejects a statement, for a reason that may last. The process tries again."""

    topic: ClassVar[str | None] = "objection"


@dataclass(frozen=True, slots=True)
class DatabaseBack(Event):
    ends: ClassVar[str | None] = "database"
    seconds: float


@dataclass(frozen=True, slots=True)
class ChoreFailed(Event):
    """A chore failed, wholly or in part. The chore is tried again, and the other chores are done."""

    level: ClassVar[Level] = "warning"
    chore: str
    reason: str

    @property
    def topic(self) -> str | None:  # type: ignore[override]
        return self.chore


@dataclass(frozen=True, slots=True)
class ChoreDone(Event):
    """A chore is done that has failed for `seconds`."""

    chore: str
    seconds: float

    @property
    def ends(self) -> str | None:  # type: ignore[override]
        return self.chore


@dataclass(frozen=True, slots=True)
class SupervisorStarted(Event):
    name: str
    processes: int
    concurrency: int
    http_port: int


@dataclass(frozen=True, slots=True)
class SupervisorStopped(Event):
    name: str
    released: int


@dataclass(frozen=True, slots=True)
class LeaseLapsed(Event):
    """The supervisor's lease had run out before this heartbeat. Its jobs may have been requeued."""

    level: ClassVar[Level] = "warning"
    name: str


@dataclass(frozen=True, slots=True)
class Draining(Event):
    """No more jobs are claimed. Running jobs have `seconds` left."""

    seconds: float


@dataclass(frozen=True, slots=True)
class PoolStarted(Event):
    """solo: for jobs that have killed two processes. webhooks: the pool delivers webhooks."""

    pool: int
    pid: int
    solo: bool
    webhooks: bool


@dataclass(frozen=True, slots=True)
class PoolReady(Event):
    """connections: to the database, at most; one more each for artifacts, and for outcomes that are rolled back."""

    pool: int
    tasks: int
    queues: tuple[str, ...]
    connections: int


@dataclass(frozen=True, slots=True)
class PoolShown(Event):
    """A pool's state, on SIGUSR1. traceback: of a pool that is importing the tasks."""

    is_always_logged: ClassVar[bool] = True
    busy: int
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerShown(Event):
    """A busy worker of a shown pool. seconds: of the attempt so far. traceback: the handler's frames.

    batch: how many jobs the handler has taken, of which the first is shown; None: the handler takes one.
    """

    is_always_logged: ClassVar[bool] = True
    id: UUID
    task: str
    queue: str
    attempt: int
    seconds: float
    traceback: str
    batch: int | None = None


@dataclass(frozen=True, slots=True)
class PoolSilent(Event):
    """A pool does not answer what it is doing: a handler blocks the loop. The pool is made to dump its stacks."""

    is_always_logged: ClassVar[bool] = True
    pool: int


@dataclass(frozen=True, slots=True)
class PoolHeldUp(Event):
    """The database is away for a pool, or refuses the pool. The supervisor may still reach the database."""

    level: ClassVar[Level] = "warning"
    topic: ClassVar[str | None] = "pools"
    pool: int
    reason: str


@dataclass(frozen=True, slots=True)
class PoolsGoOn(Event):
    """No pool is held up any more."""

    ends: ClassVar[str | None] = "pools"
    seconds: float


@dataclass(frozen=True, slots=True)
class LifespanFailed(Event):
    """The app's lifespan has raised, and the pool ends. place: FILE:LINE, the innermost frame in the app's code."""

    level: ClassVar[Level] = "error"
    error: str
    place: str | None
    traceback: str | None


@dataclass(frozen=True, slots=True)
class LifespanSlow(Event):
    """The app's lifespan has not yielded within `seconds`. The pool claims nothing until then."""

    level: ClassVar[Level] = "warning"
    seconds: float


@dataclass(frozen=True, slots=True)
class LifespanCut(Event):
    """The grace period is over before the app's lifespan was left."""

    level: ClassVar[Level] = "warning"
    seconds: float


@dataclass(frozen=True, slots=True)
class PoolDied(Event):
    """A pool's process ended by itself. requeued, failed: the numbers of its jobs. tasks: of these, at most five."""

    level: ClassVar[Level] = "error"
    pool: int
    exit: str
    requeued: int
    failed: int
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PoolStopped(Event):
    level: ClassVar[Level] = "debug"
    pool: int


@dataclass(frozen=True, slots=True)
class JobsRequeued(Event):
    """The sweeper took jobs away from dead supervisors."""

    level: ClassVar[Level] = "warning"
    supervisors: tuple[str, ...]
    requeued: int
    failed: int


@dataclass(frozen=True, slots=True)
class JobsLeft(Event):
    """Running jobs of an ended process could not be requeued. The database rejects each; each is tried again."""

    level: ClassVar[Level] = "warning"
    topic: ClassVar[str | None] = "jobs left"
    jobs: int
    reason: str


@dataclass(frozen=True, slots=True)
class DaysChanged(Event):
    """The sweeper made partitions for days ahead, emptied old ones, or dropped emptied ones."""

    made: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class JobsPurged(Event):
    """The sweeper deleted finished jobs whose queue keeps jobs for a shorter time than their day."""

    level: ClassVar[Level] = "debug"
    jobs: int
    days: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SpansFail(Event):
    """A span or a metric was not made: the app's sampler, processor or exporter raises. Jobs go on without."""

    level: ClassVar[Level] = "warning"
    topic: ClassVar[str | None] = "spans"
    reason: str  # the error's type
    place: str | None = None


@dataclass(frozen=True, slots=True)
class SpansLost(Event):
    """A pool ends, and the spans of its last attempts could not be sent within `seconds`."""

    level: ClassVar[Level] = "warning"
    seconds: float


@dataclass(frozen=True, slots=True)
class LogLinesDropped(Event):
    """Lines were dropped, because the reader of the log was too slow."""

    level: ClassVar[Level] = "warning"
    lines: int


Subscriber = Callable[[Event], None]
_subscribers: list[Subscriber] = []


def publish(event: Event) -> None:
    for subscriber in _subscribers:
        subscriber(event)


def subscribe_for_good(subscriber: Subscriber) -> None:
    _subscribers.append(subscriber)


@contextlib.contextmanager
def subscribe(subscriber: Subscriber) -> Iterator[None]:
    _subscribers.append(subscriber)
    try:
        yield
    finally:
        _subscribers.remove(subscriber)
