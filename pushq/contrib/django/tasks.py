"""The registry of a Django project, for `pushq supervise pushq.contrib.django.tasks:tasks`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from inspect import iscoroutinefunction
from types import MappingProxyType
from typing import Any

import anyio
import django
from asgiref.sync import ThreadSensitiveContext, sync_to_async
from django.conf import settings

from pushq.contrib.django.api import task_backends
from pushq.contrib.django.attempt import CANCELLED, Attempt
from pushq.contrib.django.backend import PushqBackend
from pushq.contrib.django.discover import every_task
from pushq.errors import TasksError
from pushq.task import Tasks

_NONE: Mapping[str, Any] = MappingProxyType({})


class DjangoTasks(Tasks):
    """more_queues: in which jobs may be, beside the tasks' own."""

    def __init__(self, more_queues: frozenset[str]) -> None:
        super().__init__()
        self._more_queues = more_queues

    @property
    def queues(self) -> tuple[str, ...]:
        return tuple(sorted({*super().queues, *self._more_queues}))


def _registry() -> Tasks:
    """Every task of the project, by its dotted path. Raises TasksError."""
    if not settings.configured and not os.environ.get("DJANGO_SETTINGS_MODULE"):
        raise TasksError("DJANGO_SETTINGS_MODULE is not set; name the project's settings: mysite.settings.")
    django.setup()
    backends = {alias: one for alias in task_backends if isinstance(one := task_backends[alias], PushqBackend)}
    if not backends:
        raise TasksError("settings.TASKS has no backend 'pushq.contrib.django.PushqBackend'.")
    if not (found := every_task()):
        raise TasksError("No app has a module `tasks` with a function under @task.")
    registry = DjangoTasks(frozenset[str]().union(*(one.queues for one in backends.values())))
    for path, task in sorted(found.items()):
        backend = backends.get(task.backend) or next(iter(backends.values()))
        registry.register(path, queue=task.queue_name, max_attempts=backend.max_attempts, timeout=backend.timeout)(
            _handler(task, backend)
        )
    return registry


def _handler(task: Any, backend: PushqBackend) -> Callable[..., Any]:
    function = task.func

    def handle(args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] = _NONE) -> Any:
        attempt = Attempt(backend, task, args, kwargs)
        attempt.begin()
        try:
            return attempt.succeed(function(*attempt.arguments, **kwargs))
        except (Exception, SystemExit) as error:
            attempt.fail(error)
            raise
        finally:
            attempt.end()

    async def handle_on_loop(args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] = _NONE) -> Any:
        async with ThreadSensitiveContext():  # a thread of its own for what Django does in threads
            attempt = Attempt(backend, task, args, kwargs, until=anyio.current_effective_deadline())
            await sync_to_async(attempt.begin)()
            try:
                return await _to_the_end(attempt.succeed, await function(*attempt.arguments, **kwargs))
            except (Exception, SystemExit, *CANCELLED) as error:
                await _to_the_end(attempt.fail, error)
                raise
            finally:
                await _to_the_end(attempt.end)

    return handle_on_loop if iscoroutinefunction(function) else handle


async def _to_the_end(call: Callable[..., Any], *args: Any) -> Any:
    """Calls in a thread, whoever is cancelled."""
    with anyio.CancelScope(shield=True):
        return await sync_to_async(call)(*args)


tasks = _registry()
