"""many: whether many queues or many supervisors are slower than one."""

from __future__ import annotations

from pushq.bench.drain import drain
from pushq.bench.figures import Measure, at_least
from pushq.bench.run import Run

QUEUES = (10, 100)
SUPERVISORS = (2, 4, 8)


async def measure_many(run: Run) -> None:
    """Measures drains. Each drain also checks that no two supervisors claimed the same job."""
    count = run.scope.jobs(100_000 if run.scope.is_long else 20_000)
    async for _ in run.rounds("many"):
        one = await _drained(run, count)
        for queues in QUEUES:
            measure = Measure("many", f"{queues} queues, one supervisor", "jobs/s", "one queue")
            run.add(measure, await _drained(run, count, queues=queues), one)
        for supervisors in SUPERVISORS:
            target = at_least(1.0) if supervisors == 4 else None
            measure = Measure("many", f"one queue, {supervisors} supervisors", "jobs/s", "one supervisor", target)
            run.add(measure, await _drained(run, count, supervisors=supervisors), one)


async def _drained(run: Run, count: int, *, queues: int = 1, supervisors: int = 1) -> float:
    """Jobs a second, with 100 workers a supervisor: enough for batches, without taking the whole machine."""
    names = [f"queue_{number}" for number in range(queues)]
    async with run.ground.database() as url:
        return await drain(url, count, "--concurrency=100", supervisors=supervisors, queues=names)
