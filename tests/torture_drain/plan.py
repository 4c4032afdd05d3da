"""What a run is to do, all drawn from its seed: what the supervisor is at, and when and how it is told to stop."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Job(NamedTuple):
    """What is inserted. crashes: how many processes it has killed before."""

    task: str
    seconds: float | None = None
    crashes: int = 0

    @property
    def payload(self) -> dict[str, float]:
        return {} if self.seconds is None else {"seconds": self.seconds}


class Situation(StrEnum):
    """What the supervisor is at when it is told to stop."""

    QUICK = "quick jobs"
    LONG = "long jobs"
    STUBBORN = "handlers that ignore cancellation"
    BLOCKING = "handlers that block the loop"
    THREADS = "handlers in threads"
    GOING_ON = "jobs that snooze and fail"
    SUSPECTS = "a solo pool"
    IDLE = "idle"
    STARTING = "just starting"
    UNMIGRATED = "starting on a database that is being migrated"
    LOCKED = "tables locked by a migration"
    FROZEN = "database frozen"
    SILENT = "proxy fallen silent"
    RESTARTED = "database restarted"
    BEREFT = "a pool killed"

    @property
    def is_at_start(self) -> bool:
        return self in (Situation.STARTING, Situation.UNMIGRATED)

    @property
    def runs_jobs(self) -> bool:
        return not self.is_at_start and self is not Situation.IDLE


SITUATIONS = tuple(Situation)


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. Seconds and counts.

    instant: after the situation has come about, or after the start; lead: how long before the first signal the database
    gets what befalls it; second: another signal, and how long after the first. spares_database: whether it answers.
    """

    seed: int
    situation: Situation
    processes: int
    concurrency: int
    grace: float
    instant: float
    lead: float
    signal: str
    to_group: bool
    second: tuple[str, float] | None
    spares_database: bool
    crashes_database: bool
    jobs: tuple[Job, ...]

    @classmethod
    def drawn(cls, seed: int, among: tuple[Situation, ...] = SITUATIONS) -> Plan:
        """Situations take turns, so that each gets its share of however many runs."""
        chance = random.Random(f"drain {seed}")
        situation = among[seed % len(among)]
        processes = chance.choice((1, 1, 1, 2, 2, 3, 4))
        concurrency = chance.randint(1, 3) if situation is Situation.BLOCKING else chance.randint(1, 12)
        grace = round(chance.uniform(0.5, 2.0), 2)
        return cls(
            seed=seed,
            situation=situation,
            processes=processes,
            concurrency=concurrency,
            grace=grace,
            instant=round(chance.uniform(0, 2.2 if situation.is_at_start else 0.8), 3),
            lead=round(chance.uniform(-0.3, 1.5), 3),
            signal=chance.choice(("SIGTERM", "SIGTERM", "SIGINT")),
            to_group=chance.random() < 0.4,
            second=_second(chance, grace),
            spares_database=_spares_database(situation, chance),
            crashes_database=chance.random() < 0.5,
            jobs=tuple(_job(situation, chance) for _ in range(_how_many(situation, processes * concurrency, chance))),
        )

    @property
    def must_be_gone_after(self) -> float:
        """Seconds after the first signal: grace and three seconds, or three after a second signal."""
        return min(self.grace, self.second[1] if self.second else self.grace) + 3.0

    @property
    def is_orderly(self) -> bool:
        """Whether the supervisor gets to say its last words, and is heard."""
        return self.spares_database and not (self.second and self.second[0] == "SIGKILL")

    @property
    def longest_block(self) -> float:
        """Seconds for which handlers that block a loop for a moment may keep it from hearing of the signal."""
        return 2 * self.concurrency * max((job.seconds or 0 for job in self.jobs if job.task == "block"), default=0.0)

    def __str__(self) -> str:
        how = f"{self.signal} to the {'group' if self.to_group else 'supervisor'}"
        then = f", {self.second[0]} {self.second[1]:g} s later" if self.second else ""
        pools = f"{self.processes} x {self.concurrency} workers"
        return f"seed {self.seed}: {self.situation}; {pools}, grace {self.grace:g} s; {how}{then}"


def _second(chance: random.Random, grace: float) -> tuple[str, float] | None:
    if chance.random() < 0.7:
        return None
    return chance.choice(("SIGTERM", "SIGTERM", "SIGINT", "SIGKILL")), round(chance.uniform(0, grace + 0.5), 3)


def _spares_database(situation: Situation, chance: random.Random) -> bool:
    if situation is Situation.BEREFT:
        return chance.random() < 0.5
    return situation not in (Situation.LOCKED, Situation.FROZEN, Situation.SILENT, Situation.RESTARTED)


def _how_many(situation: Situation, workers: int, chance: random.Random) -> int:
    match situation:
        case Situation.QUICK:
            return chance.randint(1000, 3000)
        case Situation.SUSPECTS:
            return chance.randint(1, 3)
        case Situation.IDLE:
            return 0
        case _:
            return workers + chance.randint(0, 10)


def _job(situation: Situation, chance: random.Random) -> Job:
    match situation:
        case Situation.QUICK:
            return chance.choice((Job("nothing"), Job("nap", round(chance.uniform(0, 0.02), 4))))
        case Situation.STUBBORN:
            return Job("stubborn", chance.choice((0.3, 1.0, 60.0)))
        case Situation.BLOCKING:
            # For good, or for moments in which the loop goes round.
            return Job("hog") if chance.random() < 0.3 else Job("block", chance.choice((0.05, 0.2)))
        case Situation.THREADS:
            return Job("thread", chance.choice((0.1, 0.5, 1.0, 60.0)))
        case Situation.GOING_ON:
            return Job(chance.choice(("snooze", "fail")))
        case Situation.SUSPECTS:
            return Job("nap", round(chance.uniform(0.3, 4), 2), crashes=2)
        case _:
            return Job("nap", round(chance.uniform(0.2, 4), 2)) if chance.random() < 0.7 else Job("thread", 1.0)
