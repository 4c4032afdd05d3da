"""Facts about a running pushq. Whoever learns one publishes it once; logs, figures and tests subscribe."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self
from uuid import UUID

from pushq.outcome import Outcome

Level = Literal["debug", "info", "warning", "error"]
Wakeup = Literal["notify", "poll", "timer", "linger"]

_LOUD_OUTCOMES: Mapping[str, Level] = {"failed": "error", "retried": "warning"}


@dataclass(frozen=True, slots=True)
class Event:
    """Something that has happened. Each kind says how loud it is in a log."""

    @property
    def level(self) -> Level:
        return "info"

    @property
    def is_asked_for(self) -> bool:
        """Whether a log says it however quiet it is to be."""
        return False

    @property
    def topic(self) -> str | None:
        """For what is published again and again while it lasts: a log says it once a minute. None: each time."""
        return None

    @property
    def ends(self) -> str | None:
        """The topic of what is over with this: a log says it if it has said the other."""
        return None


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
    def level(self) -> Level:
        return _LOUD_OUTCOMES.get(self.outcome, "debug")

    @classmethod
    def of(cls, outcome: Outcome) -> Self:
        job, seconds = outcome.job, outcome.ended - outcome.began
        told = (outcome.error_type, outcome.place, outcome.error, outcome.traceback)
        return cls(job.id, job.task, job.queue, job.attempt, outcome.kind, seconds, *told)


@dataclass(frozen=True, slots=True)
class JobsEnded(Event):
    """The outcomes of a batch of attempts are stored. Whoever wants to hear of each takes it as a JobEnded."""

    outcomes: Sequence[Outcome]

    @property
    def level(self) -> Level:
        return "debug"


@dataclass(frozen=True, slots=True)
class OutcomeRefused(Event):
    """An outcome came too late: the job was cancelled, or taken away and given to somebody else."""

    id: UUID
    task: str
    outcome: str

    @property
    def level(self) -> Level:
        return "warning"


@dataclass(frozen=True, slots=True)
class OutcomesHeldUp(Event):
    """Somebody else has locked the rows of jobs that have ended: their outcomes are written when they are free."""

    jobs: int

    @property
    def level(self) -> Level:
        return "warning"


@dataclass(frozen=True, slots=True)
class OutcomesPutAside(Event):
    """The database will not take the outcomes of so many jobs, each for a reason of its own: they are tried again."""

    jobs: int
    reason: str

    @property
    def level(self) -> Level:
        return "warning"

    @property
    def topic(self) -> str | None:
        return "outcomes"


@dataclass(frozen=True, slots=True)
class NoThread(Event):
    """The system had no thread for a `def`, whose job is given back: its worker rests before it takes another."""

    reason: str

    @property
    def level(self) -> Level:
        return "warning"

    @property
    def topic(self) -> str | None:
        return "threads"


@dataclass(frozen=True, slots=True)
class JobsClaimed(Event):
    jobs: int

    @property
    def level(self) -> Level:
        return "debug"


@dataclass(frozen=True, slots=True)
class JobsPassedOver(Event):
    """The database does not let so many jobs be claimed, each for a reason of its own: they are tried again."""

    jobs: int
    reason: str

    @property
    def level(self) -> Level:
        return "warning"

    @property
    def topic(self) -> str | None:
        return "claims"


@dataclass(frozen=True, slots=True)
class WokenUp(Event):
    """An idle pool looks for jobs again."""

    source: Wakeup

    @property
    def level(self) -> Level:
        return "debug"


@dataclass(frozen=True, slots=True)
class NotificationReceived(Event):
    @property
    def level(self) -> Level:
        return "debug"


@dataclass(frozen=True, slots=True)
class BellUp(Event):
    """The pool hears notifications: a canary has come back."""


@dataclass(frozen=True, slots=True)
class BellDown(Event):
    """The pool does not hear notifications, and polls instead."""

    reason: str

    @property
    def level(self) -> Level:
        return "warning"


@dataclass(frozen=True, slots=True)
class DatabaseLost(Event):
    """The database is away; we wait for it."""

    reason: str

    @property
    def level(self) -> Level:
        return "warning"

    @property
    def topic(self) -> str | None:
        return "database"


@dataclass(frozen=True, slots=True)
class DatabaseObjects(DatabaseLost):
    """The database is there, and undoes what we say to it for a reason that may last; we go on trying."""

    @property
    def topic(self) -> str | None:
        return "objection"


@dataclass(frozen=True, slots=True)
class DatabaseBack(Event):
    seconds: float

    @property
    def ends(self) -> str | None:
        return "database"


@dataclass(frozen=True, slots=True)
class ChoreUndone(Event):
    """A chore of the upkeep could not be done, or not all of it. It is tried again, and the others are done."""

    chore: str
    reason: str

    @property
    def level(self) -> Level:
        return "warning"

    @property
    def topic(self) -> str | None:
        return self.chore


@dataclass(frozen=True, slots=True)
class ChoreDone(Event):
    """A chore that could not be done for so many seconds is done."""

    chore: str
    seconds: float

    @property
    def ends(self) -> str | None:
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
    """The supervisor's lease had run out before this sign of life: its jobs may have been taken away."""

    name: str

    @property
    def level(self) -> Level:
        return "warning"


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

    busy: int
    traceback: str | None = None

    @property
    def is_asked_for(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class WorkerShown(Event):
    """What one of its workers is doing, for how many seconds, and where: the handler's own frames."""

    id: UUID
    task: str
    queue: str
    attempt: int
    seconds: float
    traceback: str

    @property
    def is_asked_for(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class PoolSilent(Event):
    """A pool does not say what it is doing: a handler lets no other code run. It is made to write its stacks."""

    pool: int

    @property
    def is_asked_for(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class PoolHeldUp(Event):
    """The database is away for a pool, or refuses it. The supervisor may be no worse for it."""

    pool: int
    reason: str

    @property
    def level(self) -> Level:
        return "warning"

    @property
    def topic(self) -> str | None:
        return "pools"


@dataclass(frozen=True, slots=True)
class PoolsGoOn(Event):
    """No pool is held up any more."""

    seconds: float

    @property
    def ends(self) -> str | None:
        return "pools"


@dataclass(frozen=True, slots=True)
class PoolDied(Event):
    """A pool's process ended by itself. requeued and failed: what became of the jobs that it ran."""

    pool: int
    exit: str
    requeued: int
    failed: int

    @property
    def level(self) -> Level:
        return "error"


@dataclass(frozen=True, slots=True)
class PoolStopped(Event):
    pool: int

    @property
    def level(self) -> Level:
        return "debug"


@dataclass(frozen=True, slots=True)
class JobsRequeued(Event):
    """The sweeper took jobs away from supervisors that are dead."""

    supervisors: tuple[str, ...]
    requeued: int
    failed: int

    @property
    def level(self) -> Level:
        return "warning"


@dataclass(frozen=True, slots=True)
class JobsLeft(Event):
    """Running jobs that the database does not let be taken from a process that has ended: it is tried again."""

    jobs: int
    reason: str

    @property
    def level(self) -> Level:
        return "warning"

    @property
    def topic(self) -> str | None:
        return "jobs left"


@dataclass(frozen=True, slots=True)
class DaysChanged(Event):
    """The sweeper made partitions for days ahead, emptied old ones, or dropped emptied ones."""

    made: tuple[str, ...] = ()
    retired: tuple[str, ...] = ()
    dropped: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LogLinesDropped(Event):
    """Whoever reads the log was slower than it is written."""

    lines: int

    @property
    def level(self) -> Level:
        return "warning"


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
