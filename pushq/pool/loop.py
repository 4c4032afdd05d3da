"""The event loop that a pool shares with handlers. On the loop, no handler can harm the pool or another job.

Theory of operation. Each attempt at an `async def` is a task of its own, in a context of its own. So a timer that
cancels the task, an open cancel scope, and a context variable end with the attempt. The first step is taken at once, as
by eager tasks of Python 3.12. So a handler that never waits costs no round of the loop.

Handlers find none of the pool's tasks, and no attempts of other jobs: `asyncio.all_tasks()` shows only tasks made by
handlers. If such a task or a callback raises SystemExit, the loop goes on, and only the task or callback ends. A
handler that would stop the loop gets an error.
"""

from __future__ import annotations

import asyncio
import sys

# Documented for authors of event loops, under "Extending".
from asyncio.tasks import _enter_task, _leave_task, _unregister_task
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from pushq.current import job_here
from pushq.pool.forks import end_child, forked


class PoolLoop(asyncio.SelectorEventLoop):
    """Ends when its first task ends, and for no other reason."""

    def run_forever(self) -> None:
        while True:
            try:
                return super().run_forever()
            except (SystemExit, KeyboardInterrupt) as error:
                if forked:
                    end_child(error)
                self.call_exception_handler({"message": "A handler's task or callback has ended", "exception": error})

    def stop(self) -> None:
        if job_here():
            raise RuntimeError("the event loop belongs to the pool: a handler ends by returning")
        super().stop()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Does not wait: a thread of a handler may never return, and must not keep the process."""

    def hide_tasks(self) -> None:
        """Hides the tasks of the pool. From now on, handlers find only tasks made by handlers."""
        for task in asyncio.all_tasks(self):
            _unregister_task(task)
        self.set_task_factory(_make_task)

    async def end_tasks(self, within: float) -> None:
        """Cancels the tasks left by handlers, and waits at most `within` seconds for their ends."""
        if left := asyncio.all_tasks(self):
            for task in left:
                task.cancel()
            _, deaf = await asyncio.wait(left, timeout=within)
            for task in deaf:
                _unregister_task(task)  # else closing the loop would wait for the task

    if sys.version_info >= (3, 12):

        def begin(self, coroutine: Coroutine[Any, Any, None], context: Context, name: str) -> asyncio.Task[None]:
            """Returns a task that has taken the first step, in the context. Handlers do not find the task."""
            task = asyncio.Task(coroutine, loop=self, name=name, context=context, eager_start=True)
            if not task.done():
                _unregister_task(task)
            return task

    else:

        def begin(self, coroutine: Coroutine[Any, Any, None], context: Context, name: str) -> asyncio.Task[None]:
            """Does the same on Python 3.11, where a new task asks the loop to call its first step soon."""
            outer = asyncio.current_task(self)
            assert outer
            self._context_begun = context
            self.__dict__["call_soon"] = self._keep_first_step
            try:
                task = asyncio.Task(coroutine, loop=self, name=name, context=context)
            finally:
                del self.__dict__["call_soon"]
            _leave_task(self, outer)
            try:
                context.run(self._first_step)
            finally:
                _enter_task(self, outer)
            if not task.done():
                _unregister_task(task)
            return task

        def _keep_first_step(self, callback: Callable[..., Any], *given: Any, context: Context | None = None) -> Any:
            if context is self._context_begun:
                self._first_step = callback
                return None
            return super().call_soon(callback, *given, context=context)  # by a finalizer, say


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coroutine, loop=loop, **options)
    if not job_here():
        _unregister_task(task)
    return task
