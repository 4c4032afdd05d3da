"""The page of schedules: what it shows runs as it stands, and does what it says."""

from __future__ import annotations

import re
import shlex
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from pushq.schedules import read, upcoming
from tests.support.commands import invoke
from tests.support.jobs import Connection
from tests.support.pages import blocks, section
from tests.support.schedules import has_next, keeping, row_of
from tests.support.supervisors import ROOT

PAGE = (ROOT / "docs" / "how-to" / "schedules.md").read_text()


@pytest.fixture
def in_utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("in_utc")
async def test_the_statements_and_the_commands_do_what_the_page_shows(
    database_url: str, connection: Connection
) -> None:
    for block in blocks("sql", PAGE):
        await connection.execute(block)
    row = await row_of(connection, "report")
    assert (row["cron"], row["zone"], row["payload"]) == ("30 3 * * *", "UTC", '{"day": "yesterday"}')
    async with keeping(database_url):
        assert (await has_next(connection, "report"))["next_at"].strftime("%H:%M") == "03:30"
    await connection.execute(
        "update pushq.schedules set next_at = case name when 'report' then timestamptz '2099-01-01 03:30+00' "
        "else '2099-01-01 00:00+00' end"
    )
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until, tasks, queues) values "
        "('anna', 'here', 1, '1 hour', now() + interval '1 hour', '{report.build,account.sync}', '{default}')"
    )
    for block in blocks("console", PAGE):
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            ended = invoke(*shlex.split(command)[1:], url=database_url)
            assert (ended.exit_code, ended.stderr) == (0, ""), command
            if shown:
                assert [line.split() for line in ended.stdout.splitlines()] == [
                    line.split() for line in shown.splitlines()
                ]
    assert await connection.fetchval("select array_agg(name) from pushq.schedules") == ["report"]
    assert (await row_of(connection, "report"))["paused_at"] is None
    assert await connection.fetchval("select correlation_id from pushq.jobs") == "schedule report"


def test_the_declarations_of_the_page_are_two_schedules() -> None:
    names: dict[str, Any] = {}
    (code,) = blocks("python", PAGE)
    exec(code, names)
    daily, quick = names["tasks"].schedules
    assert (daily.name, daily.cron, daily.zone) == ("report.build", "0 2 * * *", "Europe/Berlin")
    assert (quick.name, quick.every, quick.payload) == ("report.quick", timedelta(minutes=15), '{"day": "today"}')


def test_the_table_of_changes_of_the_clock() -> None:
    def seen(cron: str, after: datetime, count: int) -> list[str]:
        times = read(cron, "Europe/Berlin", None)
        slots = upcoming(times, times.after(after, after))
        return [next(slots).astimezone(times.zone).strftime("%d %H:%M") for _ in range(count)]  # type: ignore[union-attr]

    spring, autumn = datetime(2026, 3, 28, 23, 59, tzinfo=UTC), datetime(2026, 10, 24, 23, 59, tzinfo=UTC)
    assert seen("30 2 * * *", spring, 2) == ["29 03:00", "30 02:30"]
    assert seen("30 2 * * *", autumn, 2) == ["25 02:30", "26 02:30"]
    assert seen("*/30 * * * *", spring, 4)[1:] == ["29 01:30", "29 03:00", "29 03:30"]
    assert seen("*/30 * * * *", autumn, 4) == ["25 02:00", "25 02:30", "25 02:00", "25 02:30"]


def test_every_error_that_the_page_names_is_one() -> None:
    told = section("how-to/schedules.md", "What may go wrong")
    sources = (ROOT / "migrations" / "0030_schedules.sql").read_text() + Path(read.__code__.co_filename).read_text()
    for words in ("never comes due: ", "is not known on the supervisor's host; ", "no job was inserted: "):
        assert words in told
        assert words in sources
    for name in re.findall(r"`(schedules_\w+)`", told):
        assert name in sources, name
