"""What a process tells of itself, beside what the table tells."""

from __future__ import annotations

from dataclasses import dataclass, field

from pushq.events import WAKEUPS


@dataclass(slots=True)
class ProcessFigures:
    """What a supervisor tells of itself and its pools, dead ones included where it is a count."""

    pools: int = 0
    busy: int = 0
    workers: int = 0
    wakeups: dict[str, int] = field(default_factory=lambda: dict.fromkeys(WAKEUPS, 0))
    notifications: int = 0
    listeners_up: int = 0
