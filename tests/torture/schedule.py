"""What will happen in a run, drawn from its seed: as a value, which can be written down and played again."""

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
FAULTS = 14
JOBS = 1000
SECONDS = 14.0
"""For how long clients insert, and faults begin."""


@dataclass(frozen=True, slots=True)
class Fault:
    """at: seconds after the beginning. host: whom it befalls, None: server or clients. seconds: for how long."""

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

    @classmethod
    def drawn(cls, seed: int, jobs: int = JOBS) -> Self:
        chance = random.Random(f"{seed} faults")
        kinds = [*KINDS]
        faults = [_draw(chance, kind) for kind in chance.sample(kinds, min(FAULTS, len(kinds)))]
        return cls(seed, jobs, SECONDS, tuple(sorted(faults, key=lambda fault: fault.at)))

    @classmethod
    def read(cls, file: Path) -> Self:
        """Raises ValueError for a file that is none."""
        try:
            given = json.loads(file.read_text())
            faults = tuple(Fault(**fault) for fault in given.pop("faults"))
            return cls(**given, faults=faults)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"{file} is no schedule of a torture: {error}") from error

    def write(self, file: Path) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(asdict(self), indent=1))


Seconds = Callable[[random.Random], float]


def _instant(_: random.Random) -> float:
    return 0.0


def _around_a_lease(chance: random.Random) -> float:
    return chance.uniform(0.3, 2.2) * LEASE


def _a_second(chance: random.Random) -> float:
    return chance.uniform(0.2, 1.5)


def _over_a_lease(chance: random.Random) -> float:
    return chance.uniform(1.2, 1.8) * LEASE


# What befalls a host, and for how long.
ON_HOSTS: dict[str, Seconds] = {
    "kill pool": _instant,
    "kill supervisor": _a_second,
    "kill host": _around_a_lease,
    "stop pool": _around_a_lease,
    "stop supervisor": _around_a_lease,
    "stop host": _around_a_lease,
    "drain": _a_second,
    "step clock": _around_a_lease,
    "delay": _around_a_lease,
    "cut": _instant,
    "hold": _around_a_lease,
    "half-open": _around_a_lease,
    "swallow replies": _a_second,
}
# What befalls everybody: the server, or the clients' connections.
ON_ALL: dict[str, Seconds] = {
    "crash server": _instant,
    "freeze server": _over_a_lease,
    "terminate backends": _instant,
    "cut clients": _instant,
    "swallow clients' replies": _a_second,
}
# The usual ones twice, so that they meet one another.
KINDS = (*ON_HOSTS, *ON_ALL, "kill pool", "kill host", "stop host", "cut", "swallow replies", "terminate backends")


def _draw(chance: random.Random, kind: str) -> Fault:
    host = chance.randrange(HOSTS) if kind in ON_HOSTS else None
    if kind == "step clock":
        host = HOSTS - 1  # the one whose clock is ours to set
    seconds = (ON_HOSTS | ON_ALL)[kind](chance)
    return Fault(round(chance.uniform(0.5, SECONDS), 2), kind, host, round(seconds, 2))
