"""What the inserters promised: which jobs must run, which must never, and since when each may."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum, auto
from uuid import UUID


class Fate(Enum):
    """IN_DOUBT: its COMMIT was not answered, so that either is right."""

    IN_DOUBT = auto()
    RUNS = auto()
    NEVER = auto()


@dataclass(slots=True)
class Entry:
    """A job. Instants by the wall clock, which is the server's too; announced: committed, and its inserter told."""

    kind: str
    queue: str
    run_at: float = 0.0
    opened_at: float = field(default_factory=time.time)
    announced_at: float = 0.0
    fate: Fate = Fate.IN_DOUBT
    is_plain: bool = True  # nothing but its commit and its time decides when it starts

    @property
    def open_for(self) -> float:
        """Seconds from its INSERT to its COMMIT."""
        return max(0.0, self.announced_at - self.opened_at)

    @property
    def due_at(self) -> float:
        return max(self.run_at, self.announced_at)


class Ledger:
    def __init__(self) -> None:
        self.entries: dict[UUID, Entry] = {}
        self.last_announced: tuple[float, str, str] = (0.0, "nothing", "no queue")

    def open(self, job: UUID, entry: Entry) -> None:
        """Before it is inserted: from here on it may run."""
        self.entries[job] = entry

    def announce(self, jobs: Iterable[UUID]) -> None:
        """Their COMMIT has returned."""
        now = time.time()
        for job in jobs:
            entry = self.entries[job]
            entry.fate, entry.announced_at = Fate.RUNS, now
            self.last_announced = now, entry.kind, entry.queue

    def revoke(self, jobs: Iterable[UUID]) -> None:
        """They were rolled back, or will be whatever happens."""
        for job in jobs:
            self.entries[job].fate = Fate.NEVER

    def of_fate(self, fate: Fate) -> list[UUID]:
        return [job for job, entry in self.entries.items() if entry.fate is fate]

    @property
    def by_kind(self) -> Counter[str]:
        return Counter(entry.kind for entry in self.entries.values() if entry.fate is Fate.RUNS)
