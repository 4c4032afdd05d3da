"""How many jobs a pool claims: for its free workers, and ahead where jobs are quick."""

from __future__ import annotations

from uuid import UUID

import anyio
import pytest

from pushq.job import Job
from pushq.pool import intake as module
from pushq.pool.intake import FURTHEST_AHEAD, HORIZON, LARGEST_CLAIM, Intake


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
        assert await intake.take()
        intake.done()


async def test_at_first_one_job_is_wanted_for_each_worker() -> None:
    intake = Intake(10)
    assert intake.room == 10
    intake.put(some_jobs(10), room=10)
    assert intake.room == 0


async def test_quick_jobs_are_claimed_ahead_in_growing_numbers_up_to_a_bound(clock: Clock) -> None:
    intake = Intake(10)
    rooms = []
    for _ in range(8):
        rooms.append(intake.room)
        intake.put(some_jobs(intake.room), room=intake.room)
        await run(intake, rooms[-1])
        clock.now += rooms[-1] / 50_000  # jobs a second

    assert rooms[:3] == sorted(rooms[:3])
    assert rooms[1] > 10
    assert rooms[-1] == LARGEST_CLAIM


@pytest.mark.parametrize("seconds", [1.1 * HORIZON, 1.0, 60.0])
async def test_slow_jobs_are_claimed_by_the_worker(clock: Clock, seconds: float) -> None:
    intake = Intake(10)
    for _ in range(5):
        intake.put(some_jobs(intake.room), room=intake.room)
        clock.now += seconds
        await run(intake, 10)
        assert intake.room == 10


async def test_what_is_claimed_ahead_is_begun_within_the_horizon(clock: Clock) -> None:
    intake, pace = Intake(10), 2000
    for _ in range(50):
        wanted = intake.room
        intake.put(some_jobs(wanted), room=wanted)
        clock.now += 0.01
        waiting = len(intake._jobs)
        await run(intake, min(waiting, int(pace * 0.01)))

    assert 10 < len(intake._jobs) + intake.room <= 10 + pace * HORIZON * 1.1


async def test_without_a_backlog_nothing_is_claimed_ahead(clock: Clock) -> None:
    intake = Intake(10)
    for _ in range(5):
        intake.put(some_jobs(5), room=intake.room)
        await run(intake, 5)
        clock.now += 0.001
        assert intake.room == 10


@pytest.mark.usefixtures("clock")
async def test_the_claimer_is_woken_before_the_workers_run_dry() -> None:
    intake = Intake(2)
    intake._pace._is_trusted, intake._pace._last_span = True, FURTHEST_AHEAD
    intake.put(some_jobs(FURTHEST_AHEAD), room=FURTHEST_AHEAD)
    assert intake.room == 0
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(intake.wait_room)
        await anyio.lowlevel.checkpoint()
        await run(intake, LARGEST_CLAIM + 1)

    assert 0 < intake.room <= LARGEST_CLAIM


async def test_how_long_the_first_job_has_waited_is_known(clock: Clock) -> None:
    intake = Intake(2)
    assert intake.longest_wait == 0
    intake.put(some_jobs(3), room=3)
    clock.now += 0.5
    intake.put(some_jobs(2), room=2)
    assert intake.longest_wait == 0.5
    await run(intake, 3)
    assert intake.longest_wait == 0
    assert len(intake.give_back()) == 2
    assert intake.longest_wait == 0


async def test_a_wait_that_was_not_for_a_worker_does_not_count(clock: Clock) -> None:
    intake = Intake(2)
    intake.put(some_jobs(3), room=3)
    clock.now += 5
    intake.restart_waits()
    assert intake.longest_wait == 0
    clock.now += 0.5
    assert intake.longest_wait == 0.5


async def test_each_worker_is_given_a_job_and_none_is_forgotten_when_handlers_wait() -> None:
    intake, most = Intake(20), 0

    async def worker() -> None:
        nonlocal most
        while await intake.take():
            most = max(most, intake.busy)
            await anyio.sleep(0.001)
            intake.done()

    async with anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(worker)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        intake.put(some_jobs(200), room=200)
        intake.close()

    assert most == 20


# Batches ------------------------------------------------------------------------------------------------------------


async def take_batch(intake: Intake, most: int) -> int:
    assert await intake.take()
    size = 1 + len(intake.take_more("a", most - 1))
    intake.done()
    return size


async def test_a_worker_takes_the_jobs_of_a_task_and_leaves_the_others_in_their_order() -> None:
    intake = Intake(2)
    jobs = [job._replace(task="a" if number % 3 else "b") for number, job in enumerate(some_jobs(12))]
    intake.put(jobs, room=12)
    first = await intake.take()
    assert first is jobs[0]
    assert intake.take_more("b", 2) == [jobs[3], jobs[6]]
    assert intake.busy == 1
    assert intake.give_back() == [job for job in jobs if job not in (jobs[0], jobs[3], jobs[6])]


async def test_batches_are_claimed_for_in_growing_numbers_and_no_more_when_a_worker_takes_one_job(
    clock: Clock,
) -> None:
    intake, rooms, sizes = Intake(4), list[int](), list[int]()
    for _ in range(4):
        rooms.append(intake.room)
        intake.put(some_jobs(rooms[-1]), room=rooms[-1])
        while intake.longest_wait or len(intake._jobs):
            sizes.append(await take_batch(intake, 500))
        clock.now += 10  # each batch takes long: nothing is claimed ahead
    assert rooms == [4, 64, 1024, LARGEST_CLAIM]
    assert sizes[:3] == [4, 64, 500]

    intake.put(some_jobs(1), room=2000)
    await run(intake, 1)
    assert intake.room == 4


async def test_quick_batches_are_claimed_ahead_up_to_the_same_bound(clock: Clock) -> None:
    intake = Intake(1)
    for _ in range(20):
        room = intake.room
        intake.put(some_jobs(room), room=room)
        while intake._jobs:
            await take_batch(intake, 500)
            clock.now += 0.01
    assert intake._claim_below > 0
    intake.put(some_jobs(FURTHEST_AHEAD), room=0)
    assert intake.room == 0
