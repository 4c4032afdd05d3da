"""many: whether many queues, or many supervisors, cost what one does not."""

from __future__ import annotations

from pushq.bench.drain import drain
from pushq.bench.figures import Measure, at_least
from pushq.bench.run import Run

QUEUES = (10, 100)
SUPERVISORS = (2, 4, 8)


async def measure_many(run: Run) -> None:
    """Each drain counts that no job has run twice: no two supervisors have ever claimed the same one."""
    count = run.scope.jobs(100_000 if run.scope.is_long else 20_000)
    async for _ in run.rounds("many"):
        one = await _drained(run, count)
        for queues in QUEUES:
            measure = Measure("many", f"{queues} queues, one supervisor", "jobs/s", "one queue")
            run.note(measure, await _drained(run, count, queues=queues), one)
        for supervisors in SUPERVISORS:
            target = at_least(1.0) if supervisors == 4 else None
            measure = Measure("many", f"one queue, {supervisors} supervisors", "jobs/s", "one supervisor", target)
            run.note(measure, await _drained(run, count, supervisors=supervisors), one)


async def _drained(run: Run, count: int, *, queues: int = 1, supervisors: int = 1) -> float:
    """With 100 workers a supervisor: enough for batches, and not all there are."""
    names = [f"queue_{number}" for number in range(queues)]
    async with run.ground.database() as url:
        return await drain(url, count, "--concurrency=100", supervisors=supervisors, queues=names)
