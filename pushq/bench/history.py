"""history: whether the number of finished jobs matters."""

from __future__ import annotations

from functools import partial

from pushq.bench.contrast import measure_contrast
from pushq.bench.figures import number
from pushq.bench.fill import fill_history
from pushq.bench.run import Run


async def measure_history(run: Run) -> None:
    for count in map(run.scope.jobs, (1_000_000, 10_000_000) if run.scope.is_long else (200_000,)):
        await measure_contrast(run, "history", f"{number(count)} finished", partial(fill_history, count=count))
