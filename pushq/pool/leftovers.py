"""What handlers leave behind meets no other job.

Theory of operation. Handlers run in the pool's process, beside and after one another, and a handler may leave things
behind there. Each kind of leftover ends with the attempt, or is kept from the jobs that follow:

    left behind                    what becomes of it                                       file
    ───────────────────────────────────────────────────────────────────────────────────────────────────
    variables of the context       end with the attempt's own copy of the context           leftovers.py
    an open cancel scope           ends with the attempt's own task                         leftovers.py, loop.py
    a timer that cancels the task  finds a task that has ended                              loop.py
    tasks on the loop              run on; cancelled when the pool ends                     loop.py
    `sys.exit()` in a callback     ends the callback                                        loop.py
    a forked child                 ends when the handler ends there                         forks.py
    a started program              gets signals as any program does                         signals.py
    a thread that never returns    runs on; does not keep the process                       leaving.py, loop.py
"""

from __future__ import annotations

import decimal
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import Context, copy_context
from math import inf

import anyio

from pushq.current import set_current_job
from pushq.job import Job


class Contexts:
    """Copies of the context that the module of the tasks, or the lifespan, has left. Each attempt runs in a copy."""

    def __init__(self) -> None:
        self._context = copy_context()
        self._decimal = next((value for value in self._context.values() if isinstance(value, decimal.Context)), None)

    def copy(self) -> Context:
        return self._context.copy()

    def enter(self, job: Job | None) -> None:
        """Prepares the current copy. Decimal's context is an object, shared by all copies, and so copied here.

        job: None for a batch.
        """
        if job:
            set_current_job(job)
        if self._decimal:
            decimal.setcontext(self._decimal.copy())


@contextmanager
def time_limit(until: float) -> Iterator[None]:
    """Cancels the block at the instant `until`. In the block, a handler may leave a scope of its own open."""
    scope = anyio.CancelScope(deadline=until)
    try:
        with scope:
            yield
    except RuntimeError:  # anyio refuses to close a scope around an open one
        scope.deadline = inf
