"""The list of scenarios: what each measures, and how long each takes."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from pushq.bench.backlog import measure_backlog
from pushq.bench.deliver import measure_deliver
from pushq.bench.drain import measure_drain
from pushq.bench.history import measure_history
from pushq.bench.idle import measure_idle
from pushq.bench.insert import measure_insert
from pushq.bench.lanes import measure_lanes
from pushq.bench.lists import measure_lists
from pushq.bench.many import measure_many
from pushq.bench.pick_up import measure_pick_up
from pushq.bench.pinned import measure_pinned
from pushq.bench.run import Run
from pushq.bench.scheduled import measure_scheduled
from pushq.bench.scrape import measure_scrape
from pushq.bench.share import measure_share
from pushq.bench.steps_transactional import measure_transactional
from pushq.errors import UsageError


@dataclass(frozen=True, slots=True)
class Scenario:
    """A scenario. seconds: about how long it takes. by_default: whether a run without names includes it."""

    name: str
    measures: str
    measure: Callable[[Run], Awaitable[None]]
    seconds: int
    minutes_long: int
    by_default: bool = False


SCENARIOS = (
    Scenario(
        "drain",
        "jobs/s of one supervisor, compared with a bare asyncpg loop, and with a minimal table",
        measure_drain, 50, 20, by_default=True,
    ),
    Scenario(
        "pick-up",
        "from a commit to the handler's first line, idle, compared with a raw NOTIFY and one claim",
        measure_pick_up, 30, 7, by_default=True,
    ),
    Scenario(
        "insert",
        "INSERTs/s with pushq's trigger, compared with none, an empty one, and one that always notifies",
        measure_insert, 45, 8, by_default=True,
    ),
    Scenario(
        "history", "drain and pick-up with 1 M and 10 M finished jobs, compared with none", measure_history, 60, 12
    ),
    Scenario(
        "backlog", "pick-up of an urgent job behind 1 M queued jobs, compared with a few", measure_backlog, 60, 4
    ),
    Scenario(
        "scheduled", "drain and pick-up with 1 M jobs due later, compared with none; lateness of jobs that fall due",
        measure_scheduled, 60, 6,
    ),
    Scenario(
        "pinned", "jobs/s and pick-up while a transaction holds the xmin horizon, and after", measure_pinned, 120, 13
    ),
    Scenario("many", "drain with 10 and 100 queues, 2, 4 and 8 supervisors, compared with one", measure_many, 120, 8),
    Scenario(
        "scrape", "/metrics with history and a queue, compared with an empty database",
        measure_scrape, 12, 4, by_default=True,
    ),
    Scenario("lists", "`pushq jobs list` and `pushq queues` with history and a queue", measure_lists, 12, 7),
    Scenario(
        "idle", "statements and CPU seconds a minute of a supervisor without work", measure_idle, 35, 2, by_default=True
    ),
    Scenario(
        "share", "what waits, events, cancels and tenants cost if used, compared with none, and if unused",
        measure_share, 90, 6,
    ),
    Scenario(
        "deliver",
        "retention by queue: a step of the purge beside 1 M and 10 M finished jobs; its cost unused; spans; webhooks "
        "beside a receiver that hangs; artifacts",
        measure_deliver, 115, 13,
    ),
    Scenario(
        "lanes",
        "needs, limits and fairness: their cost unused, and used; how soon a freed unit is taken; `pushq.why`",
        measure_lanes, 150, 6,
    ),
    Scenario(
        "steps", "jobs/s of transactional handlers, compared with bare transactions that do the same",
        measure_transactional, 60, 3,
    ),
)  # fmt: skip


def choose(scenarios: Sequence[Scenario], names: Sequence[str], *, everything: bool) -> list[Scenario]:
    """The named scenarios. Without names, the default ones, or everything. Raises UsageError for an unknown name."""
    if not names:
        return [scenario for scenario in scenarios if scenario.by_default or everything]
    known = {scenario.name: scenario for scenario in scenarios}
    for name in names:
        if name not in known:
            meant = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{meant[0]}'?" if meant else f"there are {', '.join(known)}."
            raise UsageError(f"There is no scenario {name!r}; {hint}")
    return [scenario for scenario in scenarios if scenario.name in names]
