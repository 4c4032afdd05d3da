"""What the views of model_coordination must say, by Python and pushq's rows, compared with what they say."""

from __future__ import annotations

import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Mapping
from hashlib import md5
from typing import Any
from uuid import UUID

from tests.support.jobs import Connection

Row = Mapping[str, Any]

_UNFINISHED = """
    select id, correlation_id, task, queue, status, priority, run_at, started_at, needs, payload
    from pushq.jobs where finished_on = 'infinity'
"""
_SHOWN = "select * from public.jobs where status in ('queued', 'blocked', 'running')"
_ENDED = "select status, count(*) from pushq.jobs where queue = 'models' and finished_on < 'infinity' group by status"
_ENDED_SHOWN = "select status, count(*) from public.jobs where completed_at is not null group by status"


class Found:
    """What a look has seen, and what was wrong."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.waiting = 0
        self.blocked = 0


async def look(connection: Connection) -> Found:
    """In one snapshot."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        return await compared(connection)


async def compared(connection: Connection) -> Found:
    found = Found()
    rows = await connection.fetch(_UNFINISHED)
    shown = {row["id"]: row for row in await connection.fetch(_SHOWN)}
    state = await connection.fetchrow("select * from public.job_queue_state")
    assert state

    holders = _holders(rows)
    for model, holding in holders.items():
        if len(holding) > 1:
            found.wrong.append(f"{len(holding)} jobs are on model {model}: {[shown_id(row) for row in holding]}")
    expected = _expected(rows, holders)
    if shown.keys() != expected.keys():
        found.wrong.append(f"jobs are missing or too many: {shown.keys() ^ expected.keys()}")
    for job in shown.keys() & expected.keys():
        columns, reasons = expected[job]
        said = {name: shown[job][name] for name in columns}
        if said != columns or shown[job]["conflict_reason"] not in reasons:
            found.wrong.append(f"{job}: {said}, {shown[job]['conflict_reason']!r}, and not {columns}, {reasons}")
        found.waiting += columns["queue_position"] is not None
        found.blocked += columns["status"] == "blocked"
    found.wrong += _wrong_state(state, rows, holders)

    words = {"succeeded": "completed"}
    ended = {words.get(row["status"], row["status"]): row["count"] for row in await connection.fetch(_ENDED)}
    if (ended_shown := {row["status"]: row["count"] for row in await connection.fetch(_ENDED_SHOWN)}) != ended:
        found.wrong.append(f"of what has ended: {ended_shown}, and not {ended}")
    return found


def shown_id(row: Row) -> str:
    text = row["correlation_id"]
    is_kept = text is not None and UUID(md5(text.encode(), usedforsecurity=False).hexdigest()) == row["id"]
    return text if is_kept else str(row["id"])


def _holders(rows: list[Any]) -> Mapping[str, list[Row]]:
    """Of each model, who holds it."""
    holders: Mapping[str, list[Row]] = defaultdict(list)
    for row in rows:
        if row["status"] == "running":
            for model in _models(row):
                holders[model].append(row)
    return holders


def _models(row: Row) -> list[str]:
    return [need.removeprefix("model:") for need in json.loads(row["needs"] or "{}") if need.startswith("model:")]


def _began(row: Row) -> tuple[Any, str]:
    return row["started_at"], shown_id(row)


def _expected(rows: list[Any], holders: Mapping[str, list[Row]]) -> dict[str, tuple[dict[str, Any], list[str | None]]]:
    """Of each job of the view that has not ended: its columns, and the reasons of a conflict that would do."""
    mine = [row for row in rows if row["queue"] == "models"]
    waiting = [row for row in mine if row["status"] == "queued"]
    line = sorted(waiting, key=lambda row: (row["priority"], row["run_at"], shown_id(row)))
    places = {row["id"]: place for place, row in enumerate(line, 1)}
    expected = {}
    for row in mine:
        if row["task"] != "coord.run":
            continue
        waits = row["status"] == "queued"
        in_the_way = [holder for model in _models(row) for holder in holders.get(model, [])] if waits else []
        blocker = min(in_the_way, key=_began, default=None)
        reasons: list[str | None] = [None]
        if blocker:
            shared = set(_models(row)) & set(_models(blocker))
            reasons = [f"model {model} is held by job {shown_id(blocker)}" for model in shared]
        columns = {
            "status": "running" if not waits else "blocked" if blocker else "queued",
            "queue_position": places.get(row["id"]),
            "blocked_by_job_id": shown_id(blocker) if blocker else None,
            "required_models": json.dumps(json.loads(row["payload"]).get("models", [])),
            "priority": row["priority"],
            "queued_at": row["run_at"],
            "started_at": None if waits else row["started_at"],
            "completed_at": None,
        }
        expected[shown_id(row)] = columns, reasons
    return expected


def _wrong_state(state: Any, rows: list[Any], holders: Mapping[str, list[Row]]) -> list[str]:
    running = (
        row for row in rows if row["status"] == "running" and (row["queue"], row["task"]) == ("models", "coord.run")
    )
    first = min(running, key=_began, default=None)
    expected = (
        1,
        shown_id(first) if first else None,
        "normal" if first else None,
        sorted(holders),
        first["started_at"] if first else None,
    )
    said = (
        state["id"],
        state["active_job_id"],
        state["active_job_type"],
        json.loads(state["active_models"]),
        state["started_at"],
    )
    return [] if said == expected and state["last_updated"] else [f"the state is {said}, and not {expected}"]


async def wrong_logs(connection: Connection) -> list[str]:
    """The logs of jobs that have ended which are no story from queued to the end, with the start of each attempt."""
    logs: dict[str, list[str]] = defaultdict(list)
    for row in await connection.fetch("select job_id, event_type from public.job_queue_log order by created_at, id"):
        logs[row["job_id"]].append(row["event_type"])
    wrong = []
    for row in await connection.fetch("select id, status from public.jobs where completed_at is not null"):
        log = logs[row["id"]]
        told = Counter(log)
        if (
            log[:1] != ["queued"]
            or log[-1] != row["status"]
            or told["queued"] != 1
            or any(one == other == "started" for one, other in itertools.pairwise(log))
        ):
            wrong.append(f"{row['id']} is {row['status']}: {log}")
    return wrong
