"""Runs scenarios one after the other, and reports the figures."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from datetime import UTC, datetime

import anyio

from pushq.bench.connection import connected
from pushq.bench.ground import Ground
from pushq.bench.machine import describe_machine
from pushq.bench.pgbench import Pgbench
from pushq.bench.report import Report
from pushq.bench.run import Record, Run, Scope, Teller
from pushq.bench.scenarios import Scenario
from pushq.errors import PushqError


async def measure(
    url: str,
    pgbench: Pgbench,
    scenarios: Sequence[Scenario],
    scope: Scope,
    *,
    record: Record,
    teller: Teller,
    has_all_the_time: bool,
) -> Report:
    """Runs scenarios on the server of a URL, until the last one ends, or SIGINT or SIGTERM comes.

    The report holds the failures of scenarios, and whether the run was stopped. Raises like Ground.opened.
    """
    async with (
        Ground.opened(url, pgbench) as ground,
        ground.database() as calibrated,
        connected(calibrated) as connection,
    ):
        run = Run(ground, connection, scope, record, teller)
        report = Report(run, describe_machine(), await ground.settings(), began_at=datetime.now(UTC))
        async with anyio.create_task_group() as group:
            group.start_soon(_stop_on_signal, report, group.cancel_scope)
            await _run_all(run, report, scenarios, has_all_the_time=has_all_the_time)
            group.cancel_scope.cancel()
        report.took = datetime.now(UTC) - report.began_at
    return report


async def _run_all(run: Run, report: Report, scenarios: Sequence[Scenario], *, has_all_the_time: bool) -> None:
    for scenario in scenarios:
        run.begin_scenario(float("inf") if has_all_the_time else scenario.seconds)
        try:
            await scenario.measure(run)
        except (PushqError, BaseExceptionGroup) as error:
            report.failures.append(_sought(error))


def _sought(error: BaseException) -> PushqError:
    """The PushqError inside the groups of task groups. Raises any other error."""
    if isinstance(error, PushqError):
        return error
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return _sought(error.exceptions[0])
    raise error


async def _stop_on_signal(report: Report, scope: anyio.CancelScope) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async for _ in signals:
            report.was_stopped = True
            scope.cancel()
