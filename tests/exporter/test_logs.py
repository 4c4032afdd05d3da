"""Logs: one event a line, for people or for programs."""

from __future__ import annotations

import io
import json
import os
import re
from dataclasses import replace
from uuid import UUID

from pushq.events import (
    ChoreDone,
    ChoreFailed,
    DatabaseBack,
    DatabaseLost,
    JobEnded,
    OutcomesPutAside,
    PoolReady,
    StatementRejected,
    WokenUp,
    publish,
)
from pushq.exporter.lines import LineWriter
from pushq.exporter.logs import MOST_REASONS, Log, log_events

ENDED = JobEnded(UUID(int=0), "mail", "default", 1, "failed", 0.25, "ValueError")


def logged(
    *events: object, form: str = "console", level: str = "info", errors: str = "brief", source: str = "supervisor"
) -> list[str]:
    stream = io.StringIO()
    with log_events(form, level, errors, source=source, stream=stream):
        for event in events:
            publish(event)  # type: ignore[arg-type]
    return stream.getvalue().splitlines()


def test_an_event_is_a_line_for_people() -> None:
    (line,) = logged(ENDED)

    assert line.endswith(
        "error   [supervisor] job ended id=00000000-0000-0000-0000-000000000000 task=mail queue=default "
        "attempt=1 outcome=failed seconds=0.250 error=ValueError"
    )


def test_an_event_is_a_line_of_json_for_programs() -> None:
    (line,) = logged(PoolReady(1, 3, ("a", "b"), 13), form="json")

    shown = json.loads(line)
    assert shown.pop("time").endswith("Z")
    assert shown == {
        "level": "info",
        "source": "supervisor",
        "event": "pool ready",
        "pool": 1,
        "tasks": 3,
        "queues": ["a", "b"],
        "connections": 13,
    }


def test_what_may_hold_secrets_is_shown_only_where_it_is_asked_for() -> None:
    told = replace(ENDED, place="app/jobs.py:7", message="ValueError: secret", traceback="Traceback:\nforged\n  secret")
    for form in ("console", "json"):
        (brief,) = logged(told, form=form)
        assert "app/jobs.py:7" in brief
        assert "secret" not in brief
    (line,) = logged(told, form="json", errors="full")
    assert json.loads(line)["traceback"] == told.traceback
    assert logged(told, errors="full")[1:] == ["    Traceback:", "    forged", "      secret"]


def test_what_is_quieter_than_the_level_is_left_out() -> None:
    assert len(logged(WokenUp("poll"), ENDED, level="warning")) == 1


def test_a_name_cannot_forge_a_line_or_paint_a_terminal() -> None:
    hostile = JobEnded(UUID(int=0), "x\n2026 info forged\x1b[31m\u2028", "q\r", 1, "failed", 0.0)

    for form in ("console", "json"):
        (line,) = logged(hostile, form=form)
        assert line.isprintable()


def test_lines_that_nobody_takes_are_dropped_and_counted() -> None:
    """Two thousand are more than a pipe holds."""
    reader, writer = os.pipe()
    stream = os.fdopen(writer, "w")
    lines = LineWriter(stream, most=10)
    log = Log("console", "info", "supervisor", lines)
    for _ in range(2000):
        log(ENDED)
    said, more = b"", 0
    while b"log lines dropped" not in said:
        said += os.read(reader, 1 << 16)
        log(ENDED)
        more += 1
    lines.close()
    stream.close()
    while chunk := os.read(reader, 1 << 16):
        said += chunk
    os.close(reader)

    dropped = sum(map(int, re.findall(rb"log lines dropped lines=(\d+)", said)))
    assert dropped > 0
    assert said.count(b"job ended") + dropped <= 2000 + more


def test_that_the_database_is_away_is_said_once_a_minute_and_by_the_supervisor_alone() -> None:
    lines = logged(*[DatabaseLost("away")] * 50, DatabaseBack(3.0), DatabaseLost("away"))

    assert [("lost" in line, "back" in line) for line in lines] == [(True, False), (False, True), (True, False)]
    assert logged(DatabaseLost("away"), source="pool 1") == []


def test_what_lasts_is_said_once_a_minute_for_each_thing_it_is_about_and_by_every_process() -> None:
    failed = [ChoreFailed("fold", "no"), ChoreFailed("days", "no")]
    lines = logged(*failed * 50, *[StatementRejected("no")] * 50, *[OutcomesPutAside(1, "no")] * 50, source="pool 1")

    assert [line.partition("[pool 1] ")[2].partition(" reason")[0] for line in lines] == [
        "chore failed chore=fold",
        "chore failed chore=days",
        "statement rejected",
        "outcomes put aside jobs=1",
    ]


def test_what_lasts_is_said_again_when_its_reason_changes_and_a_flood_of_reasons_is_not() -> None:
    changing = ["cut", "read-only", "cut", "read-only", "full"]
    lines = logged(*map(DatabaseLost, changing), DatabaseBack(3.0), DatabaseLost("cut"))

    assert [line.rpartition("=")[2] for line in lines] == ["cut", "read-only", "full", "3.000", "cut"]
    assert len(logged(*[DatabaseLost(str(n)) for n in range(50)])) == MOST_REASONS


def test_that_a_chore_is_done_again_is_said_where_it_was_said_to_be_undone() -> None:
    lines = logged(
        ChoreDone("days", 1.0), ChoreFailed("days", "no"), ChoreDone("days", 60.0), ChoreFailed("days", "no")
    )

    assert ["failed" in line for line in lines] == [True, False, True]
