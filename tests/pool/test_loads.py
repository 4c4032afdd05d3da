"""Loads: jobs of handlers that take batches come in lists, in the place of the first, and claims fill the lists."""

from __future__ import annotations

from uuid import UUID

from pushq import Job, Tasks
from pushq.pool.loads import MOST_LARGE, Loads

tasks = Tasks()


@tasks.register("plain")
async def plain() -> None: ...


alone = list(tasks)


@tasks.register("three", batch=3)
async def three(jobs: list[Job]) -> None: ...


@tasks.register("many", batch=1500)
async def many(jobs: list[Job]) -> None: ...


def some(kinds: str, payload: str | None = "{}") -> list[Job]:
    names = {"p": "plain", "t": "three", "m": "many"}
    return [
        Job(UUID(int=n), names[kind], "default", payload, 1, 0, 0, None, None, None, None, UUID(int=0))
        for n, kind in enumerate(kinds)
    ]


def shape(loads: object) -> list[object]:
    assert isinstance(loads, list)
    return [[job.id.int for job in load] if isinstance(load, list) else load.id.int for load in loads]


def test_a_batch_stands_where_its_first_job_stood() -> None:
    assert shape(Loads(tasks).of(some("ptptttp"))) == [0, [1, 3, 4], 2, [5], 6]
    assert shape(Loads(tasks).of(some("tmtm"))) == [[0, 2], [1, 3]]


def test_without_batches_jobs_are_loads() -> None:
    jobs = some("ppp")
    assert Loads(alone).of(jobs) is jobs
    assert Loads(alone).wanted(jobs) == {}


def test_a_batch_holds_few_payloads_that_did_not_come_with_the_claim() -> None:
    jobs = some("m" * 20, None) + some("m" * 20)
    assert [len(load) for load in Loads(tasks).of(jobs) if isinstance(load, list)] == [MOST_LARGE, 4, 20]


def test_for_each_job_there_is_room_for_a_batch_up_to_the_largest_claim() -> None:
    loads = Loads(tasks)
    assert loads.wanted(some("pp")) == {}
    assert loads.wanted(some("ptt")) == {"three": 4}
    assert loads.wanted(some("m")) == {"many": 1499}
    assert loads.wanted(some("mmm" + "t")) == {"many": 1997, "three": 2}


def test_for_jobs_with_large_payloads_there_is_room_for_what_their_batches_will_hold() -> None:
    """Else hundreds of jobs would be claimed that nobody begins."""
    loads = Loads(tasks)
    assert loads.wanted(some("mmmm", None)) == {"many": 4 * (MOST_LARGE - 1)}
    assert loads.wanted(some("tt", None)) == {"three": 4}
    assert loads.wanted(some("m", None) + some("m")) == {"many": 1500 + MOST_LARGE - 2}
