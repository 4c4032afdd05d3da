"""Why a queued job does not run now, in words."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any


def why_never(prospect: Mapping[str, Any]) -> str | None:
    """Why no supervisor would run jobs of a task in a queue. None: a supervisor would.

    prospect: a row of prospects.sql.
    """
    task, queue = prospect["task"], prospect["queue"]
    if prospect["are_all_paused"]:
        return "all queues are paused; `pushq queues resume --all` lets them go on"
    if prospect["is_paused"]:
        return f"queue {queue!r} is paused; `pushq queues resume {shlex.quote(queue)}` lets it go on"
    if queue in prospect["served_with_task"]:
        return None
    if not prospect["is_known"]:
        return f"no supervisor has ever known a task {task!r}" + _did_you_mean(task, prospect["known"])
    if not prospect["is_anybody_alive"]:
        return "no supervisor is alive"
    if prospect["served_with_task"]:
        return f"the supervisors that know task {task!r} serve other queues: {', '.join(prospect['served_with_task'])}"
    return f"no live supervisor knows task {task!r}"


def why_not_now(job: Mapping[str, Any], prospect: Mapping[str, Any]) -> str | None:
    """Why a queued job does not run now. None: the next free worker takes it.

    job, prospect: rows of list_jobs.sql and prospects.sql.
    """
    if reason := why_never(prospect):
        return reason
    if job["due_in"] > 0:
        return f"due in {duration(job['due_in'])}"
    if job["apart"] == "solo":
        return "killed two processes; waits for a pool of its own"
    if prospect["idle"] == 0:
        return "all workers that may run the job are busy"
    return None


_UNITS = (("d", 86_400), ("h", 3_600), ("min", 60))


def duration(seconds: float) -> str:
    """As people say it: 2.5 s, 42 s, 12 min, 3 h 20 min, 9 d 4 h."""
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    for (unit, size), (smaller, its_size) in zip(_UNITS, [*_UNITS[1:], ("", 0)], strict=True):
        whole, rest = divmod(int(seconds), size)
        if whole:
            more = rest // its_size if its_size else 0
            return f"{whole} {unit}" + (f" {more} {smaller}" if more else "")
    raise AssertionError(seconds)


def _did_you_mean(name: str, others: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, others, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""
