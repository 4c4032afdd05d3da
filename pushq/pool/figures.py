"""Counts a pool's events, and reports the figures to the supervisor."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import anyio

from pushq.events import (
    BellDown,
    BellUp,
    DatabaseBack,
    DatabaseLost,
    Event,
    JobsClaimed,
    JobsEnded,
    NotificationReceived,
    WokenUp,
)
from pushq.link import Figures, Link
from pushq.outcome import Kind
from pushq.pool.intake import Intake

INTERVAL = 0.5
"""Seconds between two reports of counts."""


class FigureKeeper:
    """A subscriber of the pool's events."""

    def __init__(self, workers: int, is_draining: Callable[[], bool] = lambda: False) -> None:
        self.figures = Figures(workers=workers)
        self._is_draining = is_draining
        self._changed = anyio.Event()
        self._news = anyio.Event()  # of figures that decide the supervisor's readiness

    def __call__(self, event: Event) -> None:
        figures = self.figures
        self._changed.set()
        match event:
            case WokenUp(source):
                # Before a pool sleeps, a claim has found nothing: so the database has answered.
                figures.wakeups[source] = figures.wakeups.get(source, 0) + 1
                self._note_claim()
            case JobsClaimed():
                self._note_claim()
            case NotificationReceived():
                figures.notifications += 1
            case JobsEnded(outcomes) if self._is_draining():
                figures.released += sum(outcome.kind is Kind.RELEASED for outcome in outcomes)
            case BellUp() | BellDown():
                figures.hears = isinstance(event, BellUp)
                self._news.set()
            case DatabaseLost() | DatabaseBack():
                figures.trouble = event.reason if isinstance(event, DatabaseLost) else None
                self._news.set()

    def _note_claim(self) -> None:
        figures = self.figures
        if figures.trouble or not figures.has_claimed:
            figures.has_claimed, figures.trouble = True, None
            self._news.set()

    async def report(self, link: Link, intake: Intake) -> None:
        """Sends changed figures: at once for readiness, else every INTERVAL at most. An idle pool is not woken."""
        sent: Figures | None = None
        while True:
            self._changed, self._news = anyio.Event(), anyio.Event()
            self.figures.busy = intake.busy
            if self.figures != sent:
                sent = deepcopy(self.figures)
                await link.send(sent)
            with anyio.move_on_after(INTERVAL):
                await self._news.wait()
            if not self.figures.busy and not intake.busy:
                await self._changed.wait()
