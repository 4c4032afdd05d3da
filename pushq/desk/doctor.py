"""Examines a database for everything around pushq that has hurt somebody: each finding has its remedy."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from pushq.database.migrate import check_schema, refuse_hidden
from pushq.database.schema import faults
from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.database.url import describe
from pushq.desk.waiting import duration, why_never
from pushq.errors import DatabaseAway, DatabaseRefused, DatabaseTrouble, RowsHidden, SchemaError

LONG_TRANSACTION = 300.0
"""Seconds after which an open transaction is a finding."""
FULL_NOTIFICATION_QUEUE = 0.1
"""Share of the notification queue in use. At 0.5, INSERTs wake nobody."""
DAYS_AHEAD = 1
"""Days whose partitions must exist, besides today's. The sweeper makes three."""
MOST_KEPT = 1_000
"""Jobs that are looked at of each day with a trigger before deletes."""
MOST_LINES = 200
"""Tasks in queues whose waiting jobs are looked at."""
MOST_SCHEDULES = 5
"""Schedules with an error that are named."""
LATE_SCHEDULE = 60.0
"""Seconds after which a slot that is due is a finding."""
_DEADLINE = 10.0


@dataclass(frozen=True, slots=True)
class Finding:
    """check: what was examined. is_fine: nothing hurts. says: a predicate of the database, or a sentence."""

    check: str
    is_fine: bool
    says: str
    remedy: str | None = None


async def examine(url: str | None, retention: float) -> list[Finding]:
    """Examines the database. retention: seconds for which finished jobs are kept.

    Raises DatabaseAway and DatabaseRefused, if nothing can be examined, and SchemaError, if the database has no schema
    of pushq's: a standby, an empty database, somebody else's.
    """
    session = Session(
        url, "pushq doctor", deadline=_DEADLINE, settings={"enable_seqscan": "on", "enable_hashjoin": "on"}
    )
    try:
        server = (await session.fetch(statement("doctor_server")))[0]
        if server["is_standby"]:
            raise SchemaError(f"{describe(url)} is a standby, which takes no writes; give the URL of the primary.")
        await check_schema_of(url)
        findings = [Finding("server", True, f"PostgreSQL {server['version']}")]
        for check, look in _CHECKS.items():
            findings += await _tried(check, look, Patient(session, url, retention))
        return findings
    finally:
        await session.close()


@dataclass(frozen=True, slots=True)
class Patient:
    session: Session
    url: str | None
    retention: float

    async def one(self, name: str, *arguments: object) -> Any:
        return (await self.session.fetch(statement(name), *arguments))[0]

    async def rows(self, name: str, *arguments: object) -> Sequence[Any]:
        return await self.session.fetch(statement(name), *arguments)


async def check_schema_of(url: str | None) -> None:
    """Raises SchemaError for a schema of another version. Hidden rows are a finding, and no reason to stop."""
    with suppress(RowsHidden):
        await check_schema(url)


async def _tried(check: str, look: Callable[[Patient], AsyncIterator[Finding]], patient: Patient) -> list[Finding]:
    """The findings of a check. A check that this role may not make, or that takes too long, is a finding as well."""
    try:
        return [finding async for finding in look(patient)]
    except DatabaseRefused as error:
        return [Finding(check, False, f"not examined: {error}", "grant pushq_observer to this login")]
    except DatabaseTrouble as error:
        if isinstance(error, DatabaseAway) and not error.state:
            raise
        return [Finding(check, False, f"not examined: {error}", "run the doctor again")]
    except SchemaError as error:
        return [Finding(check, False, str(error))]


# The checks -----------------------------------------------------------------------------------------------------------


async def _schema(patient: Patient) -> AsyncIterator[Finding]:
    found = await faults(patient.url)
    for fault in found:
        says, _, remedy = fault.partition("; ")
        yield Finding("schema", False, says, remedy.rstrip(".") or None)
    if not found:
        yield Finding("schema", True, "is up to date")


async def _rights(patient: Patient) -> AsyncIterator[Finding]:
    may = await patient.one("doctor_rights")
    names = {"may_insert": "insert jobs", "may_look": "look at jobs", "may_run": "run jobs"}
    able = [what for name, what in names.items() if may[name]]
    unable = [what for name, what in names.items() if not may[name]]
    if not able:
        remedy = "as the owner run what `pushq migrate --roles` prints, and grant one of its roles to this login"
        yield Finding("rights", False, "this role may do nothing with pushq", remedy)
    else:
        but = f", and may not {' or '.join(unable)}" if unable else ""
        yield Finding("rights", True, f"this role may {', '.join(able)}{but}")


async def _rows(patient: Patient) -> AsyncIterator[Finding]:
    await refuse_hidden(patient.session, patient.url)
    yield Finding("row security", True, "hides no table from this role")


async def _settings(patient: Patient) -> AsyncIterator[Finding]:
    found = await patient.rows("doctor_settings")
    for row in found:
        yield Finding("settings", False, f"{row['name']} is {row['value']}: {row['what']}", row["remedy"])
    if not found:
        yield Finding("settings", True, "none hurts")


async def _publications(patient: Patient) -> AsyncIterator[Finding]:
    found = await patient.rows("doctor_publications")
    for row in found:
        says = f"publication {row['publication']!r} makes PostgreSQL refuse changes of {row['tables']}"
        remedy = "take pushq's tables out of the publication, or its filters and lists of columns off; "
        yield Finding("publications", False, says, f"{remedy}`alter table … replica identity full` where it has none")
    if not found:
        yield Finding("publications", True, "none stands in the way")


async def _transactions(patient: Patient) -> AsyncIterator[Finding]:
    found = await patient.rows("doctor_transactions", LONG_TRANSACTION)
    for row in found:
        since = f" has been open for {duration(row['seconds'])}" if row["seconds"] is not None else ""
        yield Finding("transactions", False, f"{row['kind']} {row['name']}{since}: vacuum waits for it", row["remedy"])
    if not found:
        yield Finding("transactions", True, f"none has been open for {duration(LONG_TRANSACTION)}")


async def _notifications(patient: Patient) -> AsyncIterator[Finding]:
    (row,) = await patient.session.fetch("select pg_notification_queue_usage() as used")
    if row["used"] < FULL_NOTIFICATION_QUEUE:
        yield Finding("notifications", True, f"{row['used']:.0%} of the queue is in use")
        return
    says = f"{row['used']:.0%} of the notification queue is in use: from 50% on, INSERTs wake nobody"
    yield Finding("notifications", False, says, "end the session that listens in a long transaction, as shown above")


async def _days(patient: Patient) -> AsyncIterator[Finding]:
    row = await patient.one("doctor_days", DAYS_AHEAD, patient.retention)
    kinds = (
        ("missing", "no partition for", "run `pushq sweep`, or start a supervisor"),
        ("overdue", "jobs past retention are still there, of", "run `pushq sweep`; its output names what keeps a day"),
        ("undropped", "emptied partitions wait to be dropped, of", "run `pushq sweep` as the owner of the tables"),
    )
    for kind, says, remedy in kinds:
        if row[kind]:
            yield Finding("days", False, f"{says} {_some(row[kind])}", remedy)
    kept = await patient.rows("doctor_kept", MOST_KEPT)
    for day in kept:
        says = f"jobs past their queue's `keep` are still there, of {day['day']}, where "
        remedy = "run `pushq sweep`; its output tells what keeps them: a trigger that returns null lets no row go"
        yield Finding("days", False, f"{says}{_some(day['triggers'])} of yours runs before each DELETE", remedy)
    if not kept and not any(row[kind] for kind, _, _ in kinds):
        yield Finding("days", True, "are made ahead, and dropped in time")


async def _listeners(patient: Patient) -> AsyncIterator[Finding]:
    found = await patient.rows("doctor_listeners")
    if not found:
        yield Finding("listeners", True, "no pool is deaf")
        return
    pools = _some([f"pool {row['pool']} of {row['supervisor']}" for row in found])
    remedy = (
        "with a transaction pooler in between, give supervisors PUSHQ_LISTEN_DATABASE_URL; "
        "with PUSHQ_WAKE=poll this is as wanted"
    )
    yield Finding("listeners", False, f"hear no notifications, and poll: {pools}", remedy)


async def _supervisors(patient: Patient) -> AsyncIterator[Finding]:
    row = await patient.one("doctor_supervisors")
    if row["waiting"] and not row["alive"]:
        yield Finding("supervisors", False, "jobs are due, and no supervisor is alive", "run `pushq supervise`")
    if row["dead"]:
        remedy = "a supervisor requeues them after the lease; without one, run `pushq sweep`"
        yield Finding("supervisors", False, f"jobs are held by the dead: {_some(row['dead'])}", remedy)
    if not row["dead"] and not (row["waiting"] and not row["alive"]):
        paused = f"; paused: {_some(row['paused'])}" if row["paused"] else ""
        yield Finding("supervisors", True, f"{row['alive']} alive{paused}")


async def _schedules(patient: Patient) -> AsyncIterator[Finding]:
    row = await patient.one("doctor_schedules", MOST_SCHEDULES)
    for one in row["faulty"]:
        remedy = "see `pushq schedules`; mend the row, or set its error to null to have it tried again"
        yield Finding("schedules", False, f"no job comes of {one.rstrip('.')}", remedy)
    if late := row["late"] if (row["late"] or 0) > LATE_SCHEDULE else None:
        says = f"a slot has been due for {duration(late)}, and no supervisor has inserted its job"
        yield Finding("schedules", False, says, "run `pushq supervise`, of this version at least")
    if not row["faulty"] and not late:
        yield Finding("schedules", True, "none has an error, none is late")


async def _jobs(patient: Patient) -> AsyncIterator[Finding]:
    """Jobs for which a supervisor lives, and that none will ever run."""
    lines = await patient.rows("doctor_lines", MOST_LINES)
    prospects = await patient.rows("prospects", [line["task"] for line in lines], [line["queue"] for line in lines])
    waiting = [
        (prospect, reason)
        for prospect in prospects
        if prospect["is_anybody_alive"] and not (prospect["is_paused"] or prospect["are_all_paused"])
        if (reason := why_never(prospect))
    ]
    for prospect, reason in waiting[:5]:
        task, queue = prospect["task"], prospect["queue"]
        says = f"jobs of task {task!r} wait in queue {queue!r}: {reason}"
        cancel = f"`pushq jobs cancel --task {shlex.quote(task)} --queue {shlex.quote(queue)}`"
        yield Finding("jobs", False, says, f"start a supervisor that knows the task and serves the queue, or {cancel}")
    if len(waiting) > 5:
        yield Finding(
            "jobs", False, f"jobs wait in {len(waiting) - 5} more pairs of task and queue", "see `pushq jobs`"
        )
    if not waiting:
        yield Finding("jobs", True, "none waits for a supervisor that knows its task")


def _some(names: Sequence[str], shown: int = 5) -> str:
    rest = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {rest} more" if rest > 0 else "")


_CHECKS: dict[str, Callable[[Patient], AsyncIterator[Finding]]] = {
    "schema": _schema,
    "rights": _rights,
    "row security": _rows,
    "settings": _settings,
    "publications": _publications,
    "transactions": _transactions,
    "notifications": _notifications,
    "days": _days,
    "listeners": _listeners,
    "supervisors": _supervisors,
    "schedules": _schedules,
    "jobs": _jobs,
}
