"""What handlers leave behind meets no other job.

Theory of operation. Handlers run in the pool's process, one beside and after another, and any of them may leave
something there. Each kind of leftover ends with its attempt, or is kept from the jobs that follow:

    left behind                    what becomes of it                                       file
    ───────────────────────────────────────────────────────────────────────────────────────────────────
    context variables, decimal's   end with the attempt's own copy of the context           leftovers.py
    an open cancel scope           ends with the attempt's own task                         leftovers.py, loop.py
    a timer that cancels its task  finds that task, which no other job uses                 loop.py
    tasks on the loop              run on, hidden from the pool; cancelled when it ends      loop.py
    `sys.exit()` in a callback     ends the callback                                        loop.py
    a forked child                 ends where the handler ends                              forks.py
    a started program              gets signals as if a shell had started it                signals.py
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
    """Copies of the context that the module of the tasks has left, one for each attempt."""

    def __init__(self) -> None:
        self._context = copy_context()
        self._decimal = next((value for value in self._context.values() if isinstance(value, decimal.Context)), None)

    def copy(self) -> Context:
        return self._context.copy()

    def enter(self, job: Job) -> None:
        """Prepares the copy that is current. Decimal's context is an object, which copies would share."""
        set_current_job(job)
        if self._decimal:
            decimal.setcontext(self._decimal.copy())


@contextmanager
def time_limit(until: float) -> Iterator[None]:
    """Cancels what runs inside at that instant. A handler may leave a scope of its own open inside."""
    scope = anyio.CancelScope(deadline=until)
    try:
        with scope:
            yield
    except RuntimeError:  # anyio refuses to close a scope around an open one
        scope.deadline = inf
