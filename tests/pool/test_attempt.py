"""Attempts: each by itself, on a loop that goes on."""

from __future__ import annotations

import asyncio
import contextvars
import decimal
import threading
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import Any
from uuid import UUID

import anyio
import pytest
from anyio import to_thread

from pushq import Task, Tasks, current_job
from pushq.job import Job
from pushq.outcome import Outcome
from pushq.pool.attempts import Attempts
from pushq.pool.loop import PoolLoop
from tests.support.loops import on_a_pool_s_loop

tasks = Tasks()


def job(task: Task[..., Any], payload: str | None = "{}") -> Job:
    return Job(UUID(int=1), task.name, "default", payload, 1, 0, 0, None, None, None, None, UUID(int=2))


async def attempts() -> Attempts:
    async def load(_: Job) -> str | None:
        return "{}"

    return Attempts(load)


def handler(function: Callable[..., Any]) -> Task[..., Any]:
    return Tasks().register("it", max_attempts=1)(function)


@on_a_pool_s_loop
async def test_a_handler_that_never_waits_costs_no_round_of_the_loop() -> None:
    rounds = list[int]()
    asyncio.get_running_loop().call_soon(rounds.append, 1)

    @handler
    async def it() -> str | None:
        task = asyncio.current_task()
        return task.get_name() if task else None

    outcome = await (await attempts()).make(job(it), it)

    assert (outcome.kind, outcome.result, rounds) == ("succeeded", '"it"', [])


@on_a_pool_s_loop
async def test_an_attempt_has_one_task_to_its_end_and_the_next_one_another() -> None:
    seen = list[object]()

    @handler
    async def it() -> None:
        seen.append(asyncio.current_task())
        await asyncio.sleep(0)
        seen.append(asyncio.current_task())

    makes = await attempts()
    for _ in range(2):
        outcome = await makes.make(job(it), it)
        assert outcome.kind == "succeeded"

    first, again, second, _ = seen
    assert first is again is not second
    assert asyncio.current_task() not in seen


@on_a_pool_s_loop
async def test_a_context_is_as_the_module_of_the_tasks_left_it_in_each_attempt() -> None:
    """Also where it holds an object that can be changed, as decimal's does."""
    tenant = contextvars.ContextVar("tenant", default="nobody")
    tenant.set("of the module")
    decimal.getcontext().prec = 50
    seen = list[object]()

    def look() -> None:
        seen.append((tenant.get(), decimal.getcontext().prec, current_job().id))
        tenant.set("acme")
        decimal.getcontext().prec = 3

    @handler
    async def on_the_loop() -> None:
        look()
        await asyncio.sleep(0)
        assert (tenant.get(), decimal.getcontext().prec) == ("acme", 3)
        await asyncio.create_task(asyncio.sleep(0))

    in_a_thread = handler(look)
    makes = await attempts()
    for task in (on_the_loop, in_a_thread) * 2:
        outcome = await makes.make(job(task), task)
        assert outcome.kind == "succeeded", outcome

    assert (tenant.get(), decimal.getcontext().prec) == ("of the module", 50)
    assert seen == [("of the module", 50, UUID(int=1))] * 4


@on_a_pool_s_loop
async def test_what_a_validator_or_a_backoff_sets_is_gone_too() -> None:
    tenant = contextvars.ContextVar("tenant", default="nobody")
    seen = list[str]()

    class Awkward:
        def __str__(self) -> str:
            tenant.set("by a result")
            return "awkward"

    def backoff(_: int) -> object:
        tenant.set("by a backoff")
        raise ValueError

    async def it(n: int) -> object:
        seen.append(tenant.get())
        tenant.set(f"by {n}")
        raise ValueError(Awkward())

    task = Tasks().register("it", backoff=backoff)(it)  # type: ignore[arg-type]
    makes = await attempts()
    for n in range(3):
        assert (await makes.make(job(task, f'{{"n": {n}}}'), task)).kind == "retried"

    assert seen == ["nobody"] * 3
    assert tenant.get() == "nobody"


@on_a_pool_s_loop
async def test_the_coroutine_that_a_def_returns_is_run_on_the_pool_s_loop_in_its_time() -> None:
    loop = asyncio.get_running_loop()
    limit = timedelta(seconds=0.05)

    async def work(seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return loop is asyncio.get_running_loop() and current_job().task == "it"

    def it(seconds: float) -> object:
        return work(seconds)

    task = handler(it)
    makes = await attempts()
    outcomes = [await makes.make(job(task, '{"seconds": 0}'), task)]
    outcomes.append(await makes.make(job(task, '{"seconds": 10}')._replace(timeout=limit), task))

    async def make() -> None:
        outcomes.append(await makes.make(job(task, '{"seconds": 10}'), task))

    async with anyio.create_task_group() as group:
        group.start_soon(make)
        await anyio.sleep(0.05)
        makes.stop()

    assert [(outcome.kind, outcome.result) for outcome in outcomes] == [
        ("succeeded", "true"), ("failed", None), ("released", None),
    ]  # fmt: skip
    assert outcomes[1].error == "TimeoutError: the attempt took longer than 0.05 s"


class Falsy(Exception):
    def __bool__(self) -> bool:
        return False


class Untouchable(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(7)


@on_a_pool_s_loop
async def test_an_error_counts_whatever_its_class_says_wherever_it_is_raised() -> None:
    for kind in (Falsy, Untouchable):

        def fail(kind: type[Exception] = kind) -> None:
            raise kind

        async def fail_on_the_loop(kind: type[Exception] = kind) -> None:
            raise kind

        def fail_behind_a_def(kind: type[Exception] = kind) -> Any:
            return fail_on_the_loop(kind)

        for function in (fail, fail_on_the_loop, fail_behind_a_def):
            it = handler(function)
            outcome = await (await attempts()).make(job(it), it)
            assert outcome.kind == "failed", (kind, function)


@on_a_pool_s_loop
async def test_handlers_find_no_tasks_but_those_that_handlers_have_made() -> None:
    @handler
    async def beside() -> None:
        await asyncio.sleep(0.1)

    @handler
    async def it() -> list[str]:
        await asyncio.sleep(0)
        child = asyncio.create_task(asyncio.sleep(0), name="child")
        names = [task.get_name() for task in asyncio.all_tasks()]
        await child
        return names

    makes = await attempts()
    outcomes = list[Outcome]()
    async with anyio.create_task_group() as group:
        group.start_soon(makes.make, job(beside), beside)
        await anyio.sleep(0.01)
        outcomes.append(await makes.make(job(it), it))

    assert outcomes[0].result == '["child"]'


@on_a_pool_s_loop
async def test_threads_of_anyio_last_from_one_attempt_to_the_next() -> None:
    """They end with the first task, which anyio must have found."""

    @handler
    async def it() -> int:
        return await to_thread.run_sync(threading.get_ident)

    makes = await attempts()
    threads = {(await makes.make(job(it), it)).result for _ in range(3)}

    assert len(threads) == 1


@on_a_pool_s_loop
async def test_who_is_stopped_is_cancelled_until_it_heeds_it_and_not_where_it_is_shielded() -> None:
    said = list[str]()

    @handler
    async def shielded() -> None:
        with anyio.CancelScope(shield=True):
            await asyncio.sleep(0.1)
            said.append("shielded")
        await asyncio.sleep(10)

    @handler
    async def deaf() -> None:
        for _ in range(3):
            try:
                await asyncio.sleep(10)
            except asyncio.CancelledError:
                said.append("deaf")
        await asyncio.sleep(10)

    makes = await attempts()
    outcomes = dict[str, str]()

    async def make(name: str, task: Task[..., Any]) -> None:
        outcomes[name] = (await makes.make(job(task), task)).kind

    async with anyio.create_task_group() as group:
        group.start_soon(make, "shielded", shielded)
        group.start_soon(make, "deaf", deaf)
        await anyio.sleep(0.01)
        makes.stop()
        await make("late", shielded)

    assert sorted(said) == ["deaf"] * 3 + ["shielded"]
    assert outcomes == dict.fromkeys(("shielded", "deaf", "late"), "released")


@on_a_pool_s_loop
async def test_an_attempt_that_the_end_of_its_pool_has_cancelled_is_not_a_failure() -> None:
    """Of a pool that ends by a fault, not by a drain: then there is no outcome."""

    @handler
    async def it() -> None:
        await asyncio.sleep(10)

    makes = await attempts()
    outcomes = list[Outcome]()

    async def make() -> None:
        outcomes.append(await makes.make(job(it), it))

    async with anyio.create_task_group() as group:
        group.start_soon(make)
        await anyio.sleep(0.01)
        group.cancel_scope.cancel()

    assert outcomes == []


@on_a_pool_s_loop
async def test_what_something_else_asks_of_the_loop_while_a_task_begins_is_done() -> None:
    """As what is collected as garbage just then may: its name does it here."""
    loop = asyncio.get_running_loop()
    called = list[int]()

    class Name:
        def __str__(self) -> str:
            loop.call_soon(called.append, 1)
            return "name"

    @handler
    async def it() -> None: ...

    assert isinstance(loop, PoolLoop)
    begun = loop.begin(it(), contextvars.copy_context(), Name())  # type: ignore[arg-type]
    assert begun.done()
    await asyncio.sleep(0)

    assert called == [1]


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt])
def test_what_ends_a_program_ends_no_loop_of_a_pool(error: type[BaseException]) -> None:
    def end() -> None:
        raise error

    async def main() -> str:
        asyncio.get_running_loop().call_soon(end)
        asyncio.get_running_loop().set_exception_handler(lambda *_: None)
        await asyncio.sleep(0.01)
        return "went on"

    assert anyio.run(partial(main), backend_options={"loop_factory": PoolLoop}) == "went on"
