"""Keeps open what handlers share: from before a pool's first claim until after its last outcome.

The app's context manager is entered and left by one task that does nothing else. Whatever cancel scopes and task groups
the context manager opens are closed where they were opened, whatever the pool does meanwhile.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from contextvars import Context, copy_context
from math import inf

import anyio
from anyio.abc import TaskGroup, TaskStatus

from pushq.errors import LifespanRaised, TasksError
from pushq.events import LifespanCut, LifespanFailed, LifespanSlow, publish
from pushq.lifespan import Lifespan as Make
from pushq.lifespan import set_resources
from pushq.pool.leaving import LAST_WORDS, be_gone_within
from pushq.trace import trace

SLOW = 10.0
"""Seconds without a yield after which the log says so."""
LEAST = 0.5
"""Seconds for leaving, at least: handlers may have used up the grace period."""
LONGEST = 25.0
"""Seconds for leaving without a deadline: a solo pool ends by itself."""


class Lifespan:
    """make: the app's context manager, or None. misfit: finds what is wrong with the resources. broken: called if the
    lifespan ends early. error: why the lifespan could not be entered or left, or ended early.
    """

    def __init__(
        self, make: Make | None, misfit: Callable[[object], TasksError | None], broken: Callable[[], None]
    ) -> None:
        self._make = make
        self._misfit = misfit
        self._broken = broken
        self._over = anyio.Event()
        self._left = anyio.Event()
        self.error: LifespanRaised | None = None

    async def enter(self, around: TaskGroup) -> Context:
        """Returns the lifespan's context, for handlers. Raises LifespanRaised, or TasksError for a misfit."""
        if not self._make:
            return copy_context()
        telling = asyncio.get_running_loop().call_later(SLOW, publish, LifespanSlow(SLOW))
        try:
            context: Context = await around.start(self._run, self._make)
            return context
        finally:
            telling.cancel()

    async def leave(self, by: float) -> None:
        """Leaves the lifespan, by that instant of the event loop's clock."""
        if not self._make:
            return
        self._over.set()
        now = anyio.current_time()
        with anyio.CancelScope(deadline=max(by, now + LEAST) if by < inf else now + LONGEST):
            await self._left.wait()
        if not self._left.is_set():
            publish(LifespanCut(anyio.current_time() - now))
            be_gone_within(LAST_WORDS)  # whatever the app does about its cancellation

    async def _run(self, make: Make, *, task_status: TaskStatus[Context]) -> None:
        misfit = None
        has_begun = False
        try:
            async with make() as value:
                misfit = self._misfit(value)
                if not misfit:
                    set_resources(value)
                    has_begun = True
                    task_status.started(copy_context())
                    await self._over.wait()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 - SystemExit too: only our own parent stops us
            self.error = _told(error)
            if not has_begun:
                raise self.error from None
        finally:
            self._left.set()
        if misfit:
            raise misfit
        if not self._over.is_set():
            self._broken()


def _told(error: BaseException) -> LifespanRaised:
    """Logs an error with the traceback of the app's code. Returns a sentence with the first line of the message."""
    found = trace(error)
    reason = "".join(traceback.format_exception_only(error)).strip().partition("\n")[0]
    publish(LifespanFailed(reason, found.place if found else None, found.text if found else None))
    return LifespanRaised(f"The lifespan of the tasks raises {reason}" + (f", at {found.place}." if found else "."))
