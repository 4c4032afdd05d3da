"""Keeps a pool's figures from its events, and reports them to the supervisor."""

from __future__ import annotations

from copy import deepcopy

import anyio

from pushq.events import (
    BellDown,
    BellUp,
    DatabaseBack,
    DatabaseLost,
    Event,
    JobsClaimed,
    NotificationReceived,
    WokenUp,
)
from pushq.pool.intake import Intake
from pushq.pool.link import Figures, Link

INTERVAL = 0.5


class FigureKeeper:
    """A subscriber of the pool's events."""

    def __init__(self, workers: int) -> None:
        self.figures = Figures(workers=workers)

    def __call__(self, event: Event) -> None:
        figures = self.figures
        match event:
            case WokenUp(source):
                # To be woken is to have claimed, and found nothing, just before: the database answers.
                figures.wakeups[source] = figures.wakeups.get(source, 0) + 1
                figures.has_claimed, figures.trouble = True, None
            case NotificationReceived():
                figures.notifications += 1
            case BellUp():
                figures.hears = True
            case BellDown():
                figures.hears = False
            case DatabaseLost(reason):
                figures.trouble = reason
            case DatabaseBack() | JobsClaimed():
                figures.trouble = None

    async def report(self, link: Link, intake: Intake) -> None:
        """Sends the figures whenever they have changed, twice a second at most."""
        sent: Figures | None = None
        while True:
            self.figures.busy = intake.busy
            if self.figures != sent:
                sent = deepcopy(self.figures)
                await link.send(sent)
            await anyio.sleep(INTERVAL)
