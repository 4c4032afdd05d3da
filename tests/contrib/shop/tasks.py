"""Tasks of every kind that Django knows, and what they may do wrong."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from django.dispatch import receiver

from pushq import Retry, current_job
from pushq.contrib.django.api import TaskContext, task_finished, task_started
from tests.contrib.shop.models import User

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task


class OutOfStock(Exception):
    pass


@receiver([task_started, task_finished])
def note(signal: object, task_result: Any, **_: object) -> None:
    """Writes what signals tell of tasks that ask for it."""
    if task_result.kwargs.get("noted"):
        name = "started" if signal is task_started else "finished"
        errors = [error.exception_class_path for error in task_result.errors]
        User.objects.create(name=f"{name} {task_result.status} {task_result.attempts} {errors}")


@task
def add(a: int, b: int, **_: bool) -> int:
    return a + b


@task(priority=10, queue_name="slow")
async def add_on_loop(a: int, b: int, **_: bool) -> int:
    await asyncio.sleep(0)
    return a + b


@task
def sign_up(name: str) -> int:
    return User.objects.create(name=name).pk


@task
async def sign_up_on_loop(name: str) -> int:
    return (await User.objects.acreate(name=name)).pk


@task
def fail(**_: bool) -> None:
    raise ValueError("no such user")


@task
async def fail_on_loop() -> None:
    raise OutOfStock("of apples")


@task
def return_what_is_no_json() -> object:
    return object()


@task
def return_pairs() -> object:
    return {"pairs": [(1, b"x")], "none": None}


@task
def exit_process(**_: bool) -> None:
    raise SystemExit(3)


@task(takes_context=True)
def tell(context: TaskContext, greeting: str) -> list[object]:
    result = context.task_result
    before = result.enqueued_at
    result.refresh()
    return [greeting, context.attempt, result.id, str(result.status), before, result.enqueued_at is not None]


@task(takes_context=True)
async def tell_on_loop(context: TaskContext) -> list[object]:
    return [context.attempt, context.task_result.id, context.task_result.backend]


@task(backend="stubborn")
def fail_once(**_: bool) -> int:
    if current_job().attempt == 1:
        raise ValueError("not yet")
    return current_job().attempt


@task(backend="stubborn")
def fail_twice(**_: bool) -> None:
    raise ValueError("no")


@task(backend="stubborn")
async def sleep(**_: bool) -> None:
    await asyncio.sleep(60)


@task(backend="stubborn")
def oversleep(**_: bool) -> str:
    time.sleep(0.7)
    return "too late"


@task
def again() -> int:
    if current_job().attempt == 1:
        raise Retry
    return current_job().attempt


@task
def block(seconds: float) -> None:
    time.sleep(seconds)


@task(backend="at once")
def elsewhere() -> str:
    return "here"
