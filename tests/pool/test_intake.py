"""How many jobs a pool claims: for its free workers, and ahead where jobs are quick."""

from __future__ import annotations

from uuid import UUID

import anyio
import pytest

from pushq.job import Job
from pushq.pool import intake as module
from pushq.pool.intake import FURTHEST_AHEAD, HORIZON, LARGEST_CLAIM, Intake
from pushq.pool.seats import Seat


class Clock:
    """A monotonic clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(module, "monotonic", clock)
    return clock


def some_jobs(count: int) -> list[Job]:
    return [
        Job(UUID(int=number), "a", "default", "{}", 1, 0, 0, None, None, None, None, UUID(int=0))
        for number in range(count)
    ]


async def run(intake: Intake, count: int) -> None:
    for _ in range(count):
        assert await intake.take(Seat())
        intake.done()


async def test_at_first_one_job_is_wanted_for_each_worker() -> None:
    intake = Intake(10)
    assert intake.room == 10
    intake.put(some_jobs(10), is_full=True)
    assert intake.room == 0


async def test_quick_jobs_are_claimed_ahead_in_growing_numbers_up_to_a_bound(clock: Clock) -> None:
    intake = Intake(10)
    rooms = []
    for _ in range(8):
        rooms.append(intake.room)
        intake.put(some_jobs(intake.room), is_full=True)
        await run(intake, rooms[-1])
        clock.now += rooms[-1] / 50_000  # jobs a second

    assert rooms[:3] == sorted(rooms[:3])
    assert rooms[2] > 10
    assert rooms[-1] == LARGEST_CLAIM


@pytest.mark.parametrize("seconds", [1.1 * HORIZON, 1.0, 60.0])
async def test_slow_jobs_are_claimed_by_the_worker(clock: Clock, seconds: float) -> None:
    intake = Intake(10)
    for _ in range(5):
        intake.put(some_jobs(intake.room), is_full=True)
        clock.now += seconds
        await run(intake, 10)
        assert intake.room == 10


@pytest.mark.parametrize("seconds", [1.1 * HORIZON, 1.5 * HORIZON, 1.9 * HORIZON])
async def test_slow_jobs_that_end_all_at_once_are_no_quick_jobs(clock: Clock, seconds: float) -> None:
    """Whenever the claimer looks."""
    intake, looks = Intake(10), 17
    intake.put(some_jobs(10), is_full=True)
    for _ in range(40):
        for _ in range(looks):
            clock.now += seconds / looks
            assert intake.room <= 10
        await run(intake, 10)
        assert intake.room == 10
        intake.put(some_jobs(10), is_full=True)


async def test_what_is_claimed_ahead_is_begun_within_the_horizon(clock: Clock) -> None:
    intake, pace = Intake(10), 2000
    for _ in range(50):
        wanted = intake.room
        intake.put(some_jobs(wanted), is_full=True)
        clock.now += 0.01
        waiting = len(intake._loads)
        await run(intake, min(waiting, int(pace * 0.01)))

    assert 10 < len(intake._loads) + intake.room <= 10 + pace * HORIZON * 1.1


async def test_without_a_backlog_nothing_is_claimed_ahead(clock: Clock) -> None:
    intake = Intake(10)
    for _ in range(5):
        intake.put(some_jobs(5), is_full=False)
        await run(intake, 5)
        clock.now += 0.001
        assert intake.room == 10


@pytest.mark.usefixtures("clock")
async def test_the_claimer_is_woken_before_the_workers_run_dry() -> None:
    intake = Intake(2)
    intake._pace._is_trusted, intake._pace._last_span = True, FURTHEST_AHEAD
    intake.put(some_jobs(FURTHEST_AHEAD), is_full=True)
    assert intake.room == 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(intake.wait_room)
        await anyio.lowlevel.checkpoint()
        await run(intake, LARGEST_CLAIM + 1)

    assert 0 < intake.room <= LARGEST_CLAIM


async def test_how_long_the_first_job_has_waited_is_known(clock: Clock) -> None:
    intake = Intake(2)
    assert intake.longest_wait == 0
    intake.put(some_jobs(3), is_full=True)
    clock.now += 0.5
    intake.put(some_jobs(2), is_full=True)
    assert intake.longest_wait == 0.5
    await run(intake, 3)
    assert intake.longest_wait == 0
    assert len(intake.give_back()) == 2
    assert intake.longest_wait == 0


async def test_a_wait_that_was_not_for_a_worker_does_not_count(clock: Clock) -> None:
    intake = Intake(2)
    intake.put(some_jobs(3), is_full=True)
    clock.now += 5
    intake.restart_waits()
    assert intake.longest_wait == 0
    clock.now += 0.5
    assert intake.longest_wait == 0.5


async def test_each_worker_is_given_a_job_and_none_is_forgotten_when_handlers_wait() -> None:
    intake, most = Intake(20), 0

    async def worker() -> None:
        nonlocal most
        while await intake.take(Seat()):
            most = max(most, intake.busy)
            await anyio.sleep(0.001)
            intake.done()

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(worker)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        intake.put(some_jobs(200), is_full=True)
        intake.close()

    assert most == 20
