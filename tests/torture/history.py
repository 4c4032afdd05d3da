"""What is known of one run, by three witnesses and the faults: the checker's input, as values.

The clients say what they asked for and what they were answered, as do those that wait and the guests. The handlers say
when they ran. The database says what it committed, by logical decoding, in the order of its commits; its events are
what pushq says of the same. All instants are seconds of one machine's monotonic
clock; the database has none, so its changes have an order only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias
from uuid import UUID

Answer: TypeAlias = Literal["ok", "failed", "unknown"]
"""unknown: the connection was lost before the answer came; what was asked for may have been done, once."""
Operation: TypeAlias = Literal["insert", "cancel", "retry"]


@dataclass(frozen=True, slots=True)
class Call:
    """What one client asked for one job, and what it was told. A rolled back insert is `failed`."""

    operation: Operation
    job: UUID
    answer: Answer
    invoked_at: float
    returned_at: float
    did: str | None = None
    """What pushq.cancel or pushq.retry returned, where that is known."""


@dataclass(frozen=True, slots=True)
class Wait:
    """One client's wait for a job, on a channel or by Queue.wait, which says neither whether it heard.

    heard: the status that a notification told, None: none came. found: the status at the look that followed, or at the
    look that ended the wait; None: there is no such job. ended_at: None if it waits on. could_hear: the channel was the
    job's, and its connection listened from the begin to the end.
    """

    job: UUID
    began_at: float
    ended_at: float | None = None
    heard: str | None = None
    found: str | None = None
    could_hear: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """An outcome that a guest gave to pushq.finish, and what that answered. None: the answer was lost."""

    job: UUID
    token: UUID
    kind: str
    has_counted: bool | None


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a handler, which says its begin and, whichever way it is left, its end.

    ended_at: None if it never said so: its process died. died_at: an instant at which that one was still alive, as near
    to its death as is known; without one it is taken to have lived until the last thing that any run in it said. token:
    that of its claim, where the handler says it; then a claim that the server forgot is known for certain.
    """

    job: UUID
    attempt: int
    host: int
    pid: int
    began_at: float
    ended_at: float | None
    died_at: float | None = None
    token: UUID | None = None
    returned: bool | None = None
    """Whether it ended by returning; None where it does not say."""
    files: Mapping[str, str] = field(default_factory=dict)
    """What the handler was told to be complete of its artifacts: `SIZE SHA-256` by name."""
    kept_until: float | None = None
    """The instant until which at least a guest keeps the job, whether or not it lives; None: no guest holds it."""


@dataclass(frozen=True, slots=True)
class Row:
    """A version of a job's row, as far as the checker looks at it."""

    job: UUID
    status: str
    attempt: int
    failures: int
    crashes: int
    max_attempts: int | None
    token: UUID | None
    supervisor: str | None
    is_finished: bool
    """Whether it stands in a day's partition."""
    told: UUID | None = None
    """The token of the claim that its outcome tells of, where it does: a handler returned `{"token": "…"}`, or raised
    something whose text has `token …`."""
    task: str = ""
    queue: str = ""
    waiters: str | None = None
    """Channels, as the database writes an array."""
    is_cancelling: bool = False
    has_url: bool = False
    """Whether it has a URL of its own, which is told its end."""
    telling: Telling | None = None
    """What it tells of another job, if it is a delivery."""
    needs: str | None = None
    """An object of names to units."""
    started_at: str | None = None
    """By the server's clock, as the database writes an instant."""


@dataclass(frozen=True, slots=True)
class Telling:
    """What a delivery tells: of which job, to whom (a webhook's id, or ITS_URL), under which number, and what."""

    job: UUID
    receiver: str
    number: int
    tells: str


ITS_URL = "the job's URL"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A delivery that was committed: transaction: by which one; status, crashes: as its row is in the end."""

    id: UUID
    job: UUID
    receiver: str
    number: int
    tells: str
    transaction: int
    status: str
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class Arrival:
    """A delivery that arrived at the receiver. delivery: its webhook-id. status: the answer; 0 and 1: none."""

    delivery: UUID
    job: UUID
    tells: str
    path: str
    at: float
    status: int


@dataclass(frozen=True, slots=True)
class Webhook:
    """A webhook's row in the end."""

    id: str
    path: str
    is_paused: bool


@dataclass(frozen=True, slots=True)
class Event:
    """A row of pushq.job_events. transaction: by its low 32 bits, as decoding tells it."""

    job: UUID
    kind: str
    was: str | None
    became: str | None
    attempt: int | None
    transaction: int


@dataclass(frozen=True, slots=True)
class Change:
    """One committed change of a row: an insert has no before, a delete no after.

    The finish of a job shows as a delete from the unfinished ones and an insert into a day, of one transaction.
    """

    transaction: int
    before: Row | None
    after: Row | None


@dataclass(frozen=True, slots=True)
class Registration:
    """A supervisor's row was written by a heartbeat (is_there), or deleted: it was declared dead, or has said goodbye.

    place: how many changes of jobs were committed before.
    """

    transaction: int
    supervisor: str
    is_there: bool
    place: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """An artifact became complete: the database committed its row. place: how many changes of jobs were committed
    before."""

    transaction: int
    job: UUID
    token: UUID
    name: str
    place: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """The rule of a name was committed, or deleted: then it has no capacity and no rate. A queue's is named
    `queue:NAME`. place: how many changes of jobs were committed before."""

    transaction: int
    name: str
    is_there: bool
    capacity: int | None = None
    rate: float | None = None
    burst: int = 1
    place: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """From here on nobody goes by an older rule of the name. place: how many changes of jobs were committed before."""

    name: str
    place: int = 0


Committed: TypeAlias = Change | Registration | Completion | Rule | Settled


@dataclass(frozen=True, slots=True)
class Excess:
    """At an instant running jobs held more of a name than there was, and more than a moment before."""

    at: float
    name: str
    units: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Expected:
    """In calm, a job that waited can run since an instant, and must begin within so many seconds."""

    job: UUID
    since: float
    within: float
    what: str
    """For what it waited, and what has happened."""


@dataclass(frozen=True, slots=True)
class File:
    """An artifact that was there at the end. row, pieces: `SIZE SHA-256`, as its row says, and of its pieces."""

    job: UUID
    attempt: int
    token: UUID
    name: str
    row: str
    pieces: str


@dataclass(frozen=True, slots=True)
class Excuse:
    """A time in which a host may run what it no longer owns: it was frozen, or cut off from the database. host: None
    stands for the server: it was frozen, or it crashed and forgot the claims of the last second, which is part of the
    time. That alone takes no job from its owner: it excuses only a run whose claim the database does not remember."""

    host: int | None
    kind: str
    began_at: float
    ended_at: float
    may_cost_jobs: bool = True
    """Whether the host's supervisor sent no heartbeat. Where only a pool stood still its jobs stay its own."""


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What was there when everything had been stopped and should not have been."""

    running_rows: int = 0
    unsettled_jobs: int = 0
    """Not finished in time, though perhaps since then: hosts that stop release jobs that others may still run."""
    idle_transactions: int = 0
    prepared_transactions: int = 0
    processes: tuple[str, ...] = ()
    sockets: int = 0
    drafts: int = 0
    """Of artifacts, when all that nobody writes any more had been given up."""
    pieces_of_no_artifact: int = 0
    complaints: tuple[str, ...] = ()
    """Lines in logs that tell of a bug: a traceback, a task that was destroyed, an exception never retrieved."""


@dataclass(frozen=True, slots=True)
class History:
    """lease: seconds; failures_allowed: a task's own max_attempts, for rows that have none; allowed: the same of tasks
    that differ; crashes_allowed: crashes that end a job. events: in the order of their ids, None: nobody has asked;
    all_events_of: the queues of which each transition is kept. inserts_of: those of which each
    insert is, too. files, deliveries: None: nobody has looked. told: by the id of a
    webhook the queue whose jobs are all told to it. calm_from: when all faults were over, None: never. steady_needs:
    what clients said that jobs need of names whose capacity stays the same; steady: that capacity."""

    lease: float
    failures_allowed: int
    crashes_allowed: int
    calls: tuple[Call, ...] = ()
    runs: tuple[Run, ...] = ()
    changes: tuple[Change, ...] = ()
    registrations: tuple[Registration, ...] = ()
    excuses: tuple[Excuse, ...] = ()
    leftovers: Leftovers = field(default_factory=Leftovers)
    allowed: Mapping[str, int] = field(default_factory=dict)
    waits: tuple[Wait, ...] = ()
    finishes: tuple[Finish, ...] = ()
    events: tuple[Event, ...] | None = None
    all_events_of: frozenset[str] = frozenset()
    inserts_of: frozenset[str] = frozenset()
    completions: tuple[Completion, ...] = ()
    files: tuple[File, ...] | None = None
    deliveries: tuple[Delivery, ...] | None = None
    arrivals: tuple[Arrival, ...] = ()
    webhooks: tuple[Webhook, ...] = ()
    told: Mapping[str, str] = field(default_factory=dict)
    calm_from: float | None = None
    rules: tuple[Rule | Settled, ...] = ()
    steady_needs: Mapping[UUID, Mapping[str, int]] = field(default_factory=dict)
    steady: Mapping[str, int] = field(default_factory=dict)
    excesses: tuple[Excess, ...] = ()
    expected: tuple[Expected, ...] = ()


Code: TypeAlias = Literal["LOST", "GHOST", "MUTEX", "FENCE", "ATT", "TOLD", "EVENT", "FILE", "HOOK", "NEED", "CLEAN"]


@dataclass(frozen=True, slots=True)
class Violation:
    """code: which promise; what: a sentence with the job, its attempts and instants."""

    code: Code
    what: str
