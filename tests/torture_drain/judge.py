"""What must hold of a drain, and what a run shows against it. It knows no process and no database: only facts."""

from __future__ import annotations

import json
import re
import signal
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from tests.torture_drain.plan import Job, Plan, Situation

REACTION = 0.75
"""Seconds that a signal may take to reach the pools on a busy machine: until then jobs may be claimed and begun."""
LEEWAY = 0.5
"""Seconds before the deadline of its jobs within which a busy machine may not have got a handler to its end."""

COMPLAINT = re.compile(r"never retrieved|was destroyed but|never awaited|Exception ignored")


@dataclass(frozen=True, slots=True)
class Row:
    """A job as the table has it. started_at in seconds since 1970."""

    id: str
    task: str
    status: str
    attempt: int
    failures: int
    crashes: int
    started_at: float | None


@dataclass(frozen=True, slots=True)
class Runs:
    """What handlers have said, on the machine's monotonic clock: of each job, when its runs began and returned."""

    began: dict[str, list[float]] = field(default_factory=dict)
    returned: dict[str, list[float]] = field(default_factory=dict)

    @classmethod
    def read(cls, lines: Iterable[str]) -> Runs:
        runs = cls()
        for line in map(json.loads, lines):
            said = runs.began if "began_at" in line else runs.returned
            said.setdefault(line["job"], []).append(line.get("began_at") or line["returned_at"])
        return runs


@dataclass(frozen=True, slots=True)
class Stop:
    """How the supervisor went. took: seconds from the first signal to its end; exit_code: None, it was still there.

    signalled_at: the first signal on the wall clock, and on the monotonic one. left: processes of its group that
    outlived it. second_was_sent: whether it was still there for the second signal.
    """

    signalled_at: tuple[float, float]
    took: float
    exit_code: int | None
    second_was_sent: bool
    left: Sequence[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """A run. jobs: what was inserted, by id. running: how many handlers were under way at the signal.

    after: the table once the supervisor was gone, and its row and sessions there. end: the table once another one had
    run everything that was left.
    """

    plan: Plan
    stop: Stop
    said: str
    jobs: dict[str, Job]
    running: int
    runs: Runs
    after: Sequence[Row]
    rows_of_supervisors: int
    sessions: Sequence[str]
    later_runs: Runs
    end: Sequence[Row]

    @property
    def had_begun(self) -> bool:
        """Whether it had its lease, and starts pools. Until then a signal ends it as it ends any program."""
        return "supervisor started" in self.said

    @property
    def was_heard(self) -> bool:
        """Whether it could say its last words, and the database answered."""
        return self.plan.spares_database and not (self.stop.second_was_sent and self._was_killed)

    @property
    def _was_killed(self) -> bool:
        return bool(self.plan.second and self.plan.second[0] == "SIGKILL")


def violations(facts: Facts) -> list[str]:
    """Sentences; none if all is as it should be."""
    return [
        *_late(facts),
        *_wrong_exit(facts),
        *_leftovers(facts),
        *_claims_after_the_signal(facts),
        *_not_released(facts),
        *_not_given_their_time(facts),
        *_lost(facts),
        *_charged(facts),
    ]


def _late(facts: Facts) -> Iterator[str]:
    limit = facts.plan.must_be_gone_after
    if facts.stop.exit_code is None:
        yield f"it was not gone after {facts.stop.took:.1f} s; {limit:.1f} s were allowed"
    elif facts.stop.took > limit:
        yield f"it was gone after {facts.stop.took:.2f} s; {limit:.2f} s were allowed"


def _wrong_exit(facts: Facts) -> Iterator[str]:
    code = facts.stop.exit_code
    if code is not None and code not in _right_codes(facts):
        yield f"its exit code was {code}; {' or '.join(map(str, sorted(_right_codes(facts))))} would be right"


def _right_codes(facts: Facts) -> set[int]:
    """0: it drained. Before it has begun there is nothing to drain, and it ends as Python has it or as it must."""
    codes = {0}
    if not facts.had_begun:
        codes |= {-signal.SIGTERM, -signal.SIGINT}
        codes |= {1} if "Aborted!" in facts.said or "KeyboardInterrupt" in facts.said else set()
        codes |= {1} if "run `pushq migrate`" in facts.said else set()
        codes |= {1} if not facts.plan.spares_database and "is away" in facts.said else set()
    if facts.stop.second_was_sent and facts.plan.second and facts.plan.second[0] == "SIGKILL":
        codes.add(-signal.SIGKILL)
    return codes


def _leftovers(facts: Facts) -> Iterator[str]:
    if facts.stop.left:
        yield f"processes outlived it: {', '.join(facts.stop.left)}"
    if facts.sessions:
        yield f"sessions outlived it: {', '.join(facts.sessions)}"
    if facts.was_heard and facts.had_begun and facts.rows_of_supervisors:
        yield "it kept its lease"
    if facts.had_begun:
        yield from (f"it complained: {line[:200]}" for line in facts.said.splitlines() if COMPLAINT.search(line))


def _claims_after_the_signal(facts: Facts) -> Iterator[str]:
    """Jobs that were claimed, or whose handler began. A database that does not answer may carry out a claim later."""
    if not facts.plan.spares_database:
        return
    by = REACTION + facts.plan.longest_block
    claimed = [row for row in facts.after if (row.started_at or 0) > facts.stop.signalled_at[0] + by]
    if claimed:
        late = max(row.started_at or 0 for row in claimed) - facts.stop.signalled_at[0]
        yield f"{len(claimed)} jobs were claimed after the signal, the last {late:.2f} s after it"
    begun = [at for runs in facts.runs.began.values() for at in runs if at > facts.stop.signalled_at[1] + by]
    if begun:
        late = max(begun) - facts.stop.signalled_at[1]
        yield f"{len(begun)} jobs began after the signal, the last {late:.2f} s after it"


def reaction(facts: Facts) -> float:
    """Seconds after the signal at which the last job began."""
    last = max((at for runs in facts.runs.began.values() for at in runs), default=0.0)
    return max(0.0, last - facts.stop.signalled_at[1])


def _not_released(facts: Facts) -> Iterator[str]:
    running = [row.id for row in facts.after if row.status == "running"]
    if facts.was_heard and running:
        yield f"{len(running)} jobs were left running, {running[0]} for one"


def _not_given_their_time(facts: Facts) -> Iterator[str]:
    """Whose handler has returned is not run again; whose handler would have returned in time is not cut off."""
    if not facts.was_heard or facts.stop.second_was_sent or facts.plan.situation is Situation.BEREFT:
        return
    again = facts.runs.returned.keys() & facts.later_runs.began.keys()
    if again and not any(job.task == "hog" for job in facts.jobs.values()):  # whose loop gets to write nothing more
        yield f"{len(again)} jobs ran again whose handler had returned, {min(again)} for one"
    until = facts.stop.signalled_at[1] + facts.plan.grace - LEEWAY
    for job in facts.runs.began.keys() - facts.runs.returned.keys():
        seconds = facts.jobs[job].seconds
        if seconds is not None and facts.runs.began[job][-1] + seconds < until:
            yield f"job {job} of {seconds:g} s was cut off before the deadline"


def _lost(facts: Facts) -> Iterator[str]:
    counts = Counter(row.id for row in facts.end)
    if lost := facts.jobs.keys() - counts.keys():
        yield f"{len(lost)} jobs are lost, {min(lost)} for one"
    if doubled := [job for job, count in counts.items() if count > 1]:
        yield f"{len(doubled)} jobs are there twice, {doubled[0]} for one"
    # Where it was killed a suspect that ran there has had its third crash; whether it may is asked below.
    ended_by_crashes = {row.id for row in facts.end if row.crashes >= 3 and not facts.was_heard}
    others = Counter(row.status for row in facts.end if row.status != "succeeded" and row.id not in ended_by_crashes)
    if others:
        yield f"not all succeeded: {dict(others)}"


def _charged(facts: Facts) -> Iterator[str]:
    """A drain costs no attempt. What a sweeper had to take away, or a pool died of, costs a crash each."""
    allowed = (0 if facts.was_heard else 1) + (facts.plan.situation is Situation.BEREFT)
    crashed = [row for row in facts.end if row.crashes > facts.jobs[row.id].crashes + allowed]
    if crashed:
        yield f"{len(crashed)} jobs were charged with crashes, {crashed[0].id} with {crashed[0].crashes}"
    failed = [row for row in facts.end if row.failures and row.task != "fail"]
    if failed:
        yield f"{len(failed)} jobs were charged with failures, {failed[0].id} with {failed[0].failures}"
