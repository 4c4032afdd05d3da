"""Attempts at batches: one call of a handler for many jobs, and an outcome for each."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import json
import threading
import time
import weakref
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, field_validator

from pushq import Cancel, Job, Retry, Task, Tasks, current_job
from pushq.backoff import exponential
from pushq.errors import PushqError, UnexpectedState
from pushq.outcome import Outcome
from pushq.pool.attempts import Attempts
from tests.support.loops import on_a_pool_s_loop

Numbers = list[Job[dict[str, int]]]


def batch(function: Callable[..., Any], tasks: Tasks | None = None) -> Task[..., Any]:
    backoff = exponential(timedelta(seconds=1), longest=timedelta(seconds=1))
    return (tasks or Tasks()).register("it", batch=100, max_attempts=2, backoff=backoff)(function)


def some(*payloads: str | None, failures: int = 0, timeouts: Sequence[timedelta | None] = ()) -> list[Job]:
    return [
        Job(UUID(int=n), "it", "default", payload, 1, failures, 0, None, timeout, None, None, UUID(int=100))
        for n, (payload, timeout) in enumerate(zip(payloads, timeouts or [None] * len(payloads), strict=True), 1)
    ]


def numbered(*numbers: int) -> list[Job]:
    return some(*[json.dumps({"n": n}) for n in numbers])


async def made(
    task: Task[..., Any], jobs: list[Job], *, middleware: Any = None, load: Any = None, stop_after: float | None = None
) -> list[Outcome]:
    attempts = Attempts(load, middleware)
    if stop_after is not None:
        asyncio.get_running_loop().call_later(stop_after, attempts.stop)
    outcomes = await attempts.make_batch(jobs, task)
    assert [outcome.job.id for outcome in outcomes] == [job.id for job in jobs]
    return outcomes


def _nothing(jobs: Numbers) -> None:
    assert jobs


def kinds(outcomes: Sequence[Outcome]) -> list[str]:
    return [outcome.kind.value for outcome in outcomes]


@on_a_pool_s_loop
async def test_each_item_of_the_list_that_is_returned_is_one_job_s_own() -> None:
    @batch
    async def it(jobs: Numbers) -> list[object]:
        assert [job.payload["n"] for job in jobs] == [1, 2, 3, 4, 5, 6]
        return [None, {"n": 2}, Retry(timedelta(seconds=3)), Cancel("no more"), ValueError("four"), lambda: 0]

    done, told, snoozed, cancelled, retried, failed = await made(it, numbered(1, 2, 3, 4, 5, 6))

    assert (done.kind, done.result) == ("succeeded", None)
    assert (told.kind, told.result) == ("succeeded", '{"n": 2}')
    assert (snoozed.kind, snoozed.delay) == ("snoozed", 3.0)
    assert (cancelled.kind, cancelled.error) == ("cancelled", "no more")
    assert (retried.kind, retried.error_type) == ("retried", "ValueError")
    assert 0 < retried.delay <= 1
    assert (failed.kind, failed.error_type) == ("failed", "ResultError")


@pytest.mark.parametrize("is_async", [True, False])
def test_no_list_is_no_results_and_an_error_is_everybody_s(is_async: bool) -> None:
    def look(jobs: Numbers) -> None:
        with pytest.raises(PushqError, match="handlers of one job"):
            current_job()
        if len(jobs) > 2:
            raise ValueError("too many")

    async def look_on_the_loop(jobs: Numbers) -> None:
        look(jobs)
        await asyncio.sleep(0)

    @on_a_pool_s_loop
    async def run() -> None:
        it = batch(look_on_the_loop if is_async else look)
        assert kinds(await made(it, numbered(1, 2))) == ["succeeded"] * 2
        assert kinds(await made(it, numbered(1, 2, 3))) == ["retried"] * 3
        assert kinds(await made(it, some("{}", "{}", "{}", failures=1))) == ["failed"] * 3

    run()


@pytest.mark.parametrize("returned", [[], [1], [1, 2, 3], "ab", {"a": 1, "b": 2}, 2, iter("ab"), {1, 2}])
def test_what_is_no_list_as_long_is_everybody_s_error(returned: object) -> None:
    @on_a_pool_s_loop
    async def run() -> None:
        outcomes = await made(batch(lambda jobs: jobs and returned), numbered(1, 2))

        assert kinds(outcomes) == ["retried"] * 2
        assert {outcome.error_type for outcome in outcomes} == {"TypeError"}
        assert str(outcomes[0].error).endswith("for 2 jobs; return an item for each")

    run()


@on_a_pool_s_loop
async def test_a_payload_that_does_not_fit_hurts_only_its_own_job() -> None:
    seen = list[int]()

    @batch
    async def it(jobs: Numbers) -> list[int]:
        seen.extend(job.payload["n"] for job in jobs)
        return [job.payload["n"] for job in jobs]

    async def load(job: Job) -> str | None:
        if job.id == UUID(int=4):
            raise UnexpectedState("a broken page.")
        return '{"n": 5}' if job.id == UUID(int=5) else None

    outcomes = await made(it, some('{"n": 1}', '{"n": "x"}', '{"n": 3}', None, None, None), load=load)

    assert kinds(outcomes) == ["succeeded", "failed", "succeeded", "failed", "succeeded", "released"]
    assert [outcome.result for outcome in outcomes if outcome.result] == ["1", "3", "5"]
    assert seen == [1, 3, 5]


@on_a_pool_s_loop
async def test_jobs_that_are_no_longer_ours_are_released_without_a_call() -> None:
    """Their large payloads are not found under their tokens: somebody has cancelled them, or the pool stops."""

    async def load(_: Job) -> str | None:
        return None

    called = list[int]()
    it = batch(lambda jobs: called.append(len(jobs)))
    assert kinds(await made(it, some(None), load=load)) == ["released"]
    assert kinds(await made(it, some(None, None), load=load)) == ["released"] * 2
    assert not called


@on_a_pool_s_loop
async def test_nobody_is_called_for_jobs_none_of_which_can_be_read() -> None:
    called = list[int]()
    it = batch(lambda jobs: called.append(len(jobs)))

    assert kinds(await made(it, some("[]", "7"))) == ["failed", "failed"]
    assert not called


@pytest.mark.parametrize("is_async", [True, False])
def test_the_shortest_timeout_stops_the_handler_and_charges_only_those_whose_own_has_passed(is_async: bool) -> None:
    async def wait(jobs: Numbers) -> None:
        await asyncio.sleep(60 * len(jobs))

    def block(jobs: Numbers) -> list[object]:
        time.sleep(0.05)
        return [None] * len(jobs)

    @on_a_pool_s_loop
    async def run() -> None:
        limits = [None, timedelta(milliseconds=20), timedelta(hours=1)]
        outcomes = await made(batch(wait if is_async else block), some("{}", "{}", "{}", timeouts=limits))
        others = "released" if is_async else "succeeded"
        assert kinds(outcomes) == [others, "retried", others]
        assert outcomes[1].error == "TimeoutError: the attempt took longer than 0.02 s"

    run()


@on_a_pool_s_loop
async def test_a_job_that_the_handler_does_not_get_sets_no_limit() -> None:
    @batch
    async def it(jobs: Numbers) -> None:
        await asyncio.sleep(0.03 * len(jobs))

    outcomes = await made(it, some('{"n": "x"}', "{}", timeouts=[timedelta(milliseconds=1), None]))
    assert kinds(outcomes) == ["failed", "succeeded"]


class Slow(BaseModel):
    n: int

    @field_validator("n")
    @classmethod
    def take_long(cls, n: int) -> int:
        time.sleep(0.01)
        return n


@pytest.mark.parametrize("is_async", [True, False])
def test_the_timeout_limits_the_handler_and_not_the_reading_of_payloads(is_async: bool) -> None:
    async def nothing(jobs: list[Job[Slow]]) -> None:
        await asyncio.sleep(0.001 * len(jobs))

    def nothing_in_a_thread(jobs: list[Job[Slow]]) -> None:
        assert jobs

    @on_a_pool_s_loop
    async def run() -> None:
        it = Tasks().register("it", batch=100, timeout=timedelta(milliseconds=50))(
            nothing if is_async else nothing_in_a_thread
        )
        assert kinds(await made(it, numbered(*range(10)))) == ["succeeded"] * 10

    run()


@pytest.mark.parametrize("error", [SystemExit, KeyboardInterrupt, asyncio.CancelledError, MemoryError, KeyError])
def test_whatever_a_validator_raises_hurts_only_its_own_job(error: type[BaseException]) -> None:
    class Hostile(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def refuse_two(cls, n: int) -> int:
            if n == 2:
                raise error
            return n

    def it(jobs: list[Job[Hostile]]) -> list[int]:
        return [job.payload.n for job in jobs]

    async def it_on_the_loop(jobs: list[Job[Hostile]]) -> list[int]:
        return it(jobs)

    @on_a_pool_s_loop
    async def run() -> None:
        for function in (it, it_on_the_loop):
            function.__annotations__["jobs"] = list[Job[Hostile]]
            first, second, third = await made(batch(function), numbered(1, 2, 3))
            assert (first.result, third.result) == ("1", "3")
            assert second.kind in ("failed", "retried")

    run()


@pytest.mark.parametrize("gathers", [True, False])
def test_a_stop_releases_all_jobs(gathers: bool) -> None:
    async def wait(jobs: Numbers) -> list[BaseException | None] | None:
        if gathers:
            return await asyncio.gather(*[_forever() for _ in jobs], return_exceptions=True)
        await _forever()
        return None

    async def _forever() -> None:
        await asyncio.sleep(60)

    @on_a_pool_s_loop
    async def run() -> None:
        assert kinds(await made(batch(wait), numbered(1, 2), stop_after=0.01)) == ["released"] * 2
        assert (
            kinds(await made(batch(wait), some("{}", None), load=lambda _: _forever(), stop_after=0.01))
            == ["released"] * 2
        )

    run()


@on_a_pool_s_loop
async def test_each_job_has_the_middleware_around_it_with_its_own_error() -> None:
    seen = list[tuple[int, object]]()

    @asynccontextmanager
    async def around(job: Job) -> AsyncIterator[None]:
        number = json.loads(job.payload)["n"]
        if number == 1:
            raise ValueError("not one")
        try:
            yield
            seen.append((number, None))
        except ValueError as error:  # swallowed for job 4, whose error counts all the same
            seen.append((number, type(error)))
            if number == 3:
                raise KeyError("instead") from error

    @batch
    async def it(jobs: Numbers) -> list[object]:
        return [None if job.payload["n"] == 2 else ValueError("mine") for job in jobs]

    outcomes = await made(it, numbered(1, 2, 3, 4), middleware=around)

    assert [(outcome.kind.value, outcome.error_type) for outcome in outcomes] == [
        ("retried", "ValueError"),
        ("succeeded", None),
        ("retried", "KeyError"),
        ("retried", "ValueError"),
    ]
    assert seen == [(4, ValueError), (3, ValueError), (2, None)]


class Falsy(Exception):
    def __len__(self) -> int:
        return 0


class Untouchable(Exception):
    def __getattribute__(self, name: str) -> Any:
        raise SystemExit(7)

    def __eq__(self, other: object) -> bool:
        raise SystemExit(8)

    __hash__ = Exception.__hash__


@pytest.mark.parametrize("kind", [Falsy, Untouchable])
def test_a_middleware_sees_an_error_whatever_the_error_does_when_looked_at(kind: type[Exception]) -> None:
    error = kind()

    class Around:
        def __init__(self, seen: list[object]) -> None:
            self.seen = seen

        async def __aenter__(self) -> None: ...

        async def __aexit__(self, kind: object, *_: object) -> None:
            self.seen.append(kind)

    def raising(jobs: Numbers) -> list[object]:
        if len(jobs) > 1:
            raise error
        return [error]

    @on_a_pool_s_loop
    async def run() -> None:
        for jobs in (numbered(1), numbered(1, 2)):
            seen = list[object]()
            outcomes = await made(batch(raising), jobs, middleware=lambda _: Around(seen))  # noqa: B023 - ends here
            assert seen == [kind] * len(jobs)
            assert {outcome.error_type for outcome in outcomes} <= {kind.__name__, "SystemExit"}

    run()


@on_a_pool_s_loop
async def test_a_middleware_is_not_entered_for_a_job_whose_payload_cannot_be_loaded() -> None:
    seen = list[object]()

    @asynccontextmanager
    async def around(job: Job) -> AsyncIterator[None]:
        seen.append(job.payload)
        yield

    async def load(job: Job) -> str | None:
        raise UnexpectedState(f"a broken page of {job.id}.")

    outcomes = await made(batch(_nothing), some("{}", None), middleware=around, load=load)
    assert (seen, kinds(outcomes)) == (["{}"], ["succeeded", "failed"])


@on_a_pool_s_loop
async def test_what_a_failed_batch_held_is_gone_without_the_garbage_collector() -> None:
    kept = list[weakref.ref[object]]()

    class Held:
        pass

    @batch
    async def it(jobs: Numbers) -> None:
        held = Held()
        kept.append(weakref.ref(held))
        raise ValueError(len(jobs))

    gc.disable()
    try:
        await made(it, numbered(1, 2))
        assert kept[0]() is None
    finally:
        gc.enable()


@on_a_pool_s_loop
async def test_an_error_of_all_is_looked_at_once() -> None:
    looks = list[int]()

    class Told(Exception):
        def __str__(self) -> str:
            looks.append(1)
            return "told"

    @batch
    async def it(jobs: Numbers) -> None:
        raise Told(len(jobs))

    once = len(looks)
    await made(it, numbered(1))
    once, before = len(looks) - once, len(looks)
    outcomes = await made(it, numbered(*range(50)))
    assert len(looks) - before == once
    assert {outcome.error for outcome in outcomes} == {outcomes[0].error}
    assert [outcome.job.id for outcome in outcomes] == [UUID(int=n) for n in range(1, 51)]


@on_a_pool_s_loop
async def test_a_handler_in_a_thread_sees_what_the_middleware_sets_and_leaves_nothing_behind() -> None:
    tenant = contextvars.ContextVar("tenant", default="nobody")
    seen = list[object]()

    async def around(job: Job) -> AsyncIterator[None]:
        tenant.set(job.task)
        yield

    def it(jobs: Numbers) -> None:
        assert len(jobs) == 1
        seen.append((tenant.get(), threading.current_thread() is threading.main_thread()))
        tenant.set("left behind")

    for _ in range(2):
        assert kinds(await made(batch(it), numbered(1), middleware=asynccontextmanager(around))) == ["succeeded"]
    assert kinds(await made(batch(it), numbered(1))) == ["succeeded"]

    assert seen == [("it", False), ("it", False), ("nobody", False)]


@on_a_pool_s_loop
async def test_without_a_thread_the_batch_is_given_back_and_the_worker_is_told() -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pushq.pool.attempts.to_thread.run_sync", refuse)
        outcomes = await made(batch(_nothing), numbered(1, 2))

    assert [(outcome.kind.value, outcome.error_type) for outcome in outcomes] == [("released", "NoThread")] * 2
