"""What will happen in a run, drawn from its seed: as a value, which can be written down and played again.

A run has two acts. In the first faults of all kinds overlap, and most processes end sooner or later. That mends much of
what a bug has broken: a job that is left running under a living heartbeat is free when the heartbeat ends. So in the
last act claims and outcomes get lost, and nobody ends.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

HOSTS = 3
LEASE = 2.0
"""Seconds."""
FAULTS = 16
JOBS = 1000
SECONDS = 12.0
"""For how long clients insert in the first act. Faults begin sooner, so that they still meet jobs."""
LAST_FAULT = 9.0
LAST_JOBS = 0.15
"""What share of the jobs the last act has."""
LAST_SECONDS = 3.0
FAILURES_ALLOWED = 5
"""To a task that is not told otherwise."""
ALLOWED = {"batch": 3, "fail.once": 3, "snooze": 1, "stubborn": 2, "poison": 2, "deaf": 2, "files": 3, "hold": 2}
"""Failures that these tasks are allowed."""
TOLD = "told"
"""The queue of which webhooks are told everything."""
QUEUES = {"default": 3, "history": 3, TOLD: 1}
"""And how likely a job is to be in each."""
OF_ONE_HOST = "own"
"""The queue that the last host alone serves."""
ALL_EVENTS_OF = "history"
"""The queue of which every event is kept."""


@dataclass(frozen=True, slots=True)
class Fault:
    """at: seconds after its act began. host: whom it befalls, None: server or clients. seconds: for how long."""

    at: float
    kind: str
    host: int | None
    seconds: float


@dataclass(frozen=True, slots=True)
class Schedule:
    """The jobs and what clients do with them follow from the seed; faults are listed, so that some can be left out."""

    seed: int
    jobs: int
    seconds: float
    faults: tuple[Fault, ...]
    last: tuple[Fault, ...] = ()
    """Those of the last act; without any there is only one."""

    @classmethod
    def drawn(cls, seed: int, jobs: int = JOBS) -> Self:
        chance = random.Random(f"{seed} faults")
        kinds = [*KINDS]
        faults = [_draw(chance, kind, LAST_FAULT) for kind in chance.sample(kinds, min(FAULTS, len(kinds)))]
        last = [_draw(chance, kind, LAST_SECONDS / 2) for kind in MENDED_BY_DEATH]
        return cls(seed, jobs, SECONDS, *(tuple(sorted(act, key=lambda fault: fault.at)) for act in (faults, last)))

    @classmethod
    def read(cls, file: Path) -> Self:
        """Raises ValueError for a file that is none."""
        try:
            given = json.loads(file.read_text())
            faults, last = (tuple(Fault(**fault) for fault in given.pop(act, ())) for act in ("faults", "last"))
            if unknown := {fault.kind for fault in (*faults, *last)} - {*KINDS}:
                raise ValueError(f"it has faults that are not known: {', '.join(sorted(unknown))}")
            return cls(**given, faults=faults, last=last)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{file} is no schedule of a torture: {error}") from error

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1))


Seconds = Callable[[random.Random], float]


def _instant(_: random.Random) -> float:
    return 0.0


def _over_a_heartbeat(_: random.Random) -> float:
    return 0.4 * LEASE


def _around_a_lease(chance: random.Random) -> float:
    return chance.uniform(0.3, 2.2) * LEASE


def _a_second(chance: random.Random) -> float:
    return chance.uniform(0.2, 1.5)


def _over_a_lease(chance: random.Random) -> float:
    return chance.uniform(1.2, 1.8) * LEASE


def _well_over_a_lease(chance: random.Random) -> float:
    """Until others have run what it lost for a while."""
    return chance.uniform(2.2, 3.0) * LEASE


# What befalls a host, and for how long.
ON_HOSTS: dict[str, Seconds] = {
    "kill pool": _instant,
    "kill supervisor": _a_second,
    "kill host": _around_a_lease,
    "stop pool": _around_a_lease,
    "stop supervisor": _well_over_a_lease,
    "stop host": _around_a_lease,
    "drain": _a_second,
    "step clock": _well_over_a_lease,
    "delay": _around_a_lease,
    "cut": _instant,
    "hold": _around_a_lease,
    "half-open": _around_a_lease,
    "swallow claims' replies": _a_second,
    "swallow outcomes' replies": _a_second,
    "swallow pieces' replies": _a_second,
    "lose claims": _a_second,
    "lose outcomes": _a_second,
    "view on a day": _over_a_heartbeat,
}
# What befalls everybody: the server, the clients' connections, the tables.
ON_ALL: dict[str, Seconds] = {
    "crash server": _instant,
    "freeze server": _over_a_lease,
    "lapse leases": _over_a_heartbeat,
    "terminate backends": _instant,
    "cut clients": _instant,
    "swallow clients' replies": _a_second,
    "publication": _around_a_lease,
    "refused rows": _around_a_lease,
    "foreign backlog": _around_a_lease,
    "scrapes": _around_a_lease,
    "no threads": _around_a_lease,
}
# The last act's.
MENDED_BY_DEATH = ("swallow claims' replies", "swallow outcomes' replies", "lose claims", "lose outcomes")
# The usual ones twice, so that they meet one another.
KINDS = (
    *(*ON_HOSTS, *ON_ALL),
    *("kill pool", "kill host", "stop host", "stop supervisor", "drain", "terminate backends"),
)


def _draw(chance: random.Random, kind: str, latest: float) -> Fault:
    host = chance.randrange(HOSTS) if kind in ON_HOSTS else None
    if kind == "step clock":
        host = HOSTS - 1  # the one whose clock is ours to set
    seconds = (ON_HOSTS | ON_ALL)[kind](chance)
    return Fault(round(chance.uniform(0.1, latest), 2), kind, host, round(seconds, 2))
