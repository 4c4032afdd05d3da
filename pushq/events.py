"""Facts about a running pushq. The part that learns a fact publishes the fact once; logs, figures and tests subscribe.

Subscribers are module state, which is right for one supervisor or one pool in a process: a second would hear both.
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
    """Something that has happened, and how a log shows it.

    Level and topic belong to the kind; where they depend on an event's fields, a property takes their place.
    """

    level: ClassVar[Level] = "info"
    is_always_logged: ClassVar[bool] = False
    """Whether every log shows the event, whatever the log's level."""
    topic: ClassVar[str | None] = None
    """What goes on: such events are published again and again, and logged once a minute. None: each is logged."""
    ends: ClassVar[str | None] = None
    """The topic that is over with this event. Logged if an event of the topic was."""


@dataclass(frozen=True, slots=True)
class JobEnded(Event):
    """An attempt has ended and its outcome is stored. seconds: how long the handler ran.

    message and traceback may hold secrets: a log shows them only where PUSHQ_LOG_ERRORS says so.
    """

    id: UUID
    task: str
    queue: str
    attempt: int
    outcome: str
    seconds: float
    error: str | None = None  # the error's type alone: its message may hold what is nobody's business
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
    """The outcomes of a batch of attempts are stored. Whoever wants to hear of each takes it as a JobEnded."""

    level: ClassVar[Level] = "debug"
    outcomes: Sequence[Outcome]


@dataclass(frozen=True, slots=True)
class OutcomeRefused(Event):
    """An outcome came too late: the job was cancelled, or taken away and given to somebody else."""

    level: ClassVar[Level] = "warning"
    id: UUID
    task: str
    outcome: str


@dataclass(frozen=True, slots=True)
class OutcomesHeldUp(Event):
    """Somebody else has locked the rows of jobs that have ended: their outcomes are written when they are free."""

    level: ClassVar[Level] = "warning"
    jobs: int


@dataclass(frozen=True, slots=True)
class OutcomesPutAside(Event):
    """The database will not take the outcomes of so many jobs, each for a reason of its own: they are tried again."""

    level: ClassVar[Level] = "warning"
    topic: ClassVar[str | None] = "outcomes"
    jobs: int
    reason: str


@dataclass(frozen=True, slots=True)
class NoThread(Event):
    """The system had no thread for a `def`, whose job is given back: its worker rests before it takes another."""

    level: ClassVar[Level] = "warning"
    topic: ClassVar[str | None] = "threads"
    reason: str


@dataclass(frozen=True, slots=True)
class JobsClaimed(Event):
    level: ClassVar[Level] = "debug"
    jobs: int


@dataclass(frozen=True, slots=True)
class JobsPassedOver(Event):
    """The database does not let so many jobs be claimed, each for a reason of its own: they are tried again."""

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
    """The database is away; we wait for it."""

    level: ClassVar[Level] = "warning"
    topic: ClassVar[str | None] = "database"
    reason: str


@dataclass(frozen=True, slots=True)
class StatementRejected(DatabaseLost):
    """The database is there, and undoes what we say to it for a reason that may last; we go on trying."""

    topic: ClassVar[str | None] = "objection"


@dataclass(frozen=True, slots=True)
class DatabaseBack(Event):
    ends: ClassVar[str | None] = "database"
    seconds: float


@dataclass(frozen=True, slots=True)
class ChoreFailed(Event):
    """A chore of the upkeep could not be done, or not all of it. It is tried again, and the others are done."""

    level: ClassVar[Level] = "warning"
    chore: str
    reason: str

    @property
    def topic(self) -> str | None:  # type: ignore[override]
        return self.chore


@dataclass(frozen=True, slots=True)
class ChoreDone(Event):
    """A chore that could not be done for so many seconds is done."""

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
    """The supervisor's lease had run out before this heartbeat: its jobs may have been taken away."""

    level: ClassVar[Level] = "warning"
    name: str


@dataclass(frozen=True, slots=True)
class Draining(Event):
    """No more jobs are claimed; running ones have this many seconds."""

    seconds: float


@dataclass(frozen=True, slots=True)
class PoolStarted(Event):
    pool: int
    pid: int
    solo: bool


@dataclass(frozen=True, slots=True)
class PoolReady(Event):
    pool: int
    tasks: int
    queues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PoolShown(Event):
    """Somebody has asked what the pools are doing. traceback: where it is, while it imports the tasks."""

    is_always_logged: ClassVar[bool] = True
    busy: int
    traceback: str | None = None


@dataclass(frozen=True, slots=True)
class WorkerShown(Event):
    """What one of its workers is doing, for how many seconds, and where: the handler's own frames."""

    is_always_logged: ClassVar[bool] = True
    id: UUID
    task: str
    queue: str
    attempt: int
    seconds: float
    traceback: str


@dataclass(frozen=True, slots=True)
class PoolSilent(Event):
    """A pool does not say what it is doing: a handler lets no other code run. It is made to write its stacks."""

    is_always_logged: ClassVar[bool] = True
    pool: int


@dataclass(frozen=True, slots=True)
class PoolHeldUp(Event):
    """The database is away for a pool, or refuses it. The supervisor may be no worse for it."""

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
class PoolDied(Event):
    """A pool's process ended by itself. requeued and failed: what became of the jobs that it ran."""

    level: ClassVar[Level] = "error"
    pool: int
    exit: str
    requeued: int
    failed: int


@dataclass(frozen=True, slots=True)
class PoolStopped(Event):
    level: ClassVar[Level] = "debug"
    pool: int


@dataclass(frozen=True, slots=True)
class JobsRequeued(Event):
    """The sweeper took jobs away from supervisors that are dead."""

    level: ClassVar[Level] = "warning"
    supervisors: tuple[str, ...]
    requeued: int
    failed: int


@dataclass(frozen=True, slots=True)
class JobsLeft(Event):
    """Running jobs that the database does not let be taken from a process that has ended: it is tried again."""

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
class LogLinesDropped(Event):
    """Whoever reads the log was slower than it is written."""

    level: ClassVar[Level] = "warning"
    lines: int


Subscriber = Callable[[Event], None]
_subscribers: list[Subscriber] = []


def publish(event: Event) -> None:
    for subscriber in _subscribers:
        subscriber(event)


@contextlib.contextmanager
def subscribe(subscriber: Subscriber) -> Iterator[None]:
    _subscribers.append(subscriber)
    try:
        yield
    finally:
        _subscribers.remove(subscriber)
