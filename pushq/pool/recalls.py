"""Stops the handlers of jobs that were cancelled by hand.

Whoever cancels a running job notifies on CHANNEL, with a digest of the job's id and token. Every pool hears every
digest, and looks for it among its own jobs: nobody learns anything of another's job, and nobody who does not know the
token can stop one. The row has ended by then. A message that is lost costs what the handler still does: its outcome is
refused.

Anybody may notify. So digests are gathered, and looked for all at once, and looking takes at most a tenth of the loop's
time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from hashlib import sha256
from time import monotonic

from pushq.events import JobRecalled, publish
from pushq.job import Job
from pushq.outcome import Outcome, cancelled_by_hand, released
from pushq.pool.attempts import Attempts
from pushq.pool.intake import Intake
from pushq.recalled import recalled

CHANNEL = "pushq_cancel"
MOST_HEARD = 10_000
"""Digests that are gathered. More are dropped: only a storm of false ones brings as many at once."""
REST = 9
"""How many times as long as a look took, the next look waits."""
DIGEST_LENGTH = 64


def digest(job: Job) -> str:
    """As pushq.recall() makes it."""
    return sha256(f"{job.id}{job.token}".encode()).hexdigest()


class Recalls:
    def __init__(self, attempts: Attempts, intake: Intake) -> None:
        self._attempts = attempts
        self._intake = intake
        self._heard = set[str]()
        self._next_look = 0.0

    def hear(self, message: str) -> None:
        if len(message) != DIGEST_LENGTH or len(self._heard) >= MOST_HEARD:
            return
        if not self._heard:
            asyncio.get_running_loop().call_later(max(0.0, self._next_look - monotonic()), self._look)
        self._heard.add(message)

    def _look(self) -> None:
        began = monotonic()
        heard, self._heard = self._heard, set()
        recalled.update(job.fence for job in _found(heard, self._intake.waiting()))
        for attempt, _ in self._attempts.under_way():
            if found := _found(heard, attempt.jobs):
                self._attempts.recall(attempt, found)
        self._next_look = monotonic() + REST * (monotonic() - began)


def end_unbegun(job: Job) -> Outcome:
    """The outcome of a job that was recalled before a worker began it."""
    recalled.discard(job.fence)
    publish(JobRecalled(job.id, job.task, "did not begin", 0.0))
    return cancelled_by_hand(job)


def given_back(job: Job) -> Outcome:
    """The outcome of a job that no worker has begun, and none will."""
    return end_unbegun(job) if job.fence in recalled else released(job)


def end_recalled(outcome: Outcome) -> Outcome:
    """The outcome of a job that was recalled while its handler ran, whatever the handler did, which the log tells."""
    job = outcome.job
    recalled.discard(job.fence)
    did = "stopped" if outcome.error_type == "CancelledError" else "raised" if outcome.error_type else "returned"
    publish(JobRecalled(job.id, job.task, did, outcome.ended - outcome.began))
    return cancelled_by_hand(job, outcome.began, outcome.ended)


def _found(heard: set[str], jobs: Iterable[Job]) -> list[Job]:
    return [job for job in jobs if digest(job) in heard]
