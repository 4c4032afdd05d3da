"""Figures of a process, beside the figures of the table."""

from __future__ import annotations

from dataclasses import dataclass, field

from pushq.events import WAKEUPS


@dataclass(slots=True)
class ProcessFigures:
    """Figures of a supervisor's pools and sweeper. wakeups and notifications count those of ended pools, too."""

    pools: int = 0
    busy: int = 0
    workers: int = 0
    wakeups: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WAKEUPS, 0))
    notifications: int = 0
    listeners_up: int = 0
    purged: int = 0
