"""The pool's event loop, which it shares with its handlers: what they do in it stays theirs.

Theory of operation. Each attempt of an `async def` is a task of its own, in a context of its own. Whatever its handler
leaves there, a timer that cancels the task, a cancel scope, a context variable, ends with it and meets no other job.
The task takes its first step at once, as eager tasks of Python 3.12 do, so that a handler that never waits costs no
round of the loop.

Handlers find none of the pool's tasks, and none of one another's attempts: `asyncio.all_tasks()` shows the tasks that
handlers have made. What those tasks and callbacks raise passes by the loop, which goes on: `sys.exit()` ends who calls
it. Nor can a handler stop the loop.
"""

from __future__ import annotations

import asyncio
import sys

# What the documentation has for loops of one's own, under "Extending".
from asyncio.tasks import _enter_task, _leave_task, _unregister_task
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any

from pushq.current import job_here
from pushq.pool.forks import end_child, forked


class PoolLoop(asyncio.SelectorEventLoop):
    """Ends when its first task does, and for nothing else."""

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
            raise RuntimeError("the event loop is the pool's: a handler that is done returns")
        super().stop()

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:  # noqa: ASYNC109
        """Waits for nobody: threads of handlers that never return must not keep the process."""

    def hide_tasks(self) -> None:
        """From now on handlers find only their own."""
        for task in asyncio.all_tasks(self):
            _unregister_task(task)
        self.set_task_factory(_make_task)

    async def end_tasks(self, within: float) -> None:
        """Cancels the tasks that handlers have left, and waits no longer for them."""
        if left := asyncio.all_tasks(self):
            for task in left:
                task.cancel()
            _, deaf = await asyncio.wait(left, timeout=within)
            for task in deaf:
                _unregister_task(task)  # or the loop, when it is closed, would wait for its end

    if sys.version_info >= (3, 12):

        def begin(self, coroutine: Coroutine[Any, Any, None], context: Context, name: str) -> asyncio.Task[None]:
            """A task that has taken its first step, in this context. Handlers do not find it."""
            task = asyncio.Task(coroutine, loop=self, name=name, context=context, eager_start=True)
            if not task.done():
                _unregister_task(task)
            return task

    else:

        def begin(self, coroutine: Coroutine[Any, Any, None], context: Context, name: str) -> asyncio.Task[None]:
            """The same. A task that is made asks the loop to call its first step soon: here it is called now."""
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
            return super().call_soon(callback, *given, context=context)  # of what is collected as garbage just then


def _make_task(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    task = asyncio.Task(coroutine, loop=loop, **options)
    if not job_here():
        _unregister_task(task)
    return task
