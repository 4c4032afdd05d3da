"""pushq schedules."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.support.commands import invoke
from tests.support.jobs import Connection
from tests.support.schedules import has_next, keeping, row_of, write


def listed(url: str, *arguments: str) -> list[dict[str, Any]]:
    ended = invoke("schedules", *arguments, "--json", url=url)
    assert ended.exit_code == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


async def test_the_list_shows_errors_first_and_why_there_is_no_job(database_url: str, connection: Connection) -> None:
    await write(connection, "often", every=timedelta(minutes=5), paused_at=datetime(2026, 1, 1, 12, tzinfo=UTC))
    await write(connection, "report", cron="30 2 * * *", zone="Europe/Berlin", tenant_id="acme")
    await write(connection, "z\x1b[2J", cron="\x07 * * * *")
    async with keeping(database_url):
        for name in ("report", "z\x1b[2J"):
            await has_next(connection, name)

    bad, often, report = listed(database_url)
    assert (bad["name"], bad["next_at"]) == ("z\x1b[2J", None)
    assert "cannot be read: bad minute" in bad["error"]
    assert (often["every"], often["paused_at"]) == ("00:05:00", "2026-01-01T12:00:00+00:00")
    assert (report["cron"], report["zone"], report["tenant_id"]) == ("30 2 * * *", "Europe/Berlin", "acme")
    assert report["waits"] == "no supervisor has ever known a task 'echo'"

    head, first, second, third = invoke("schedules", "list", url=database_url).stdout.splitlines()
    assert head.split() == ["schedule", "tenant", "times", "task", "queue", "next", "last", "note"]
    assert first.startswith("z\\x1b[2J")
    assert "paused since 2026-01-01" in second
    assert "every 00:05:00" in second
    assert "30 2 * * * Europe/Berlin" in third
    assert "no supervisor has ever known a task 'echo'" in third
    assert all(line.isprintable() for line in (first, second, third))


def test_a_database_without_schedules_says_so(database_url: str) -> None:
    ended = invoke("schedules", url=database_url)
    assert (ended.exit_code, ended.stdout, ended.stderr) == (0, "", "There are no schedules.\n")


async def test_schedules_are_paused_resumed_run_and_removed(database_url: str, connection: Connection) -> None:
    await write(connection, "report", every=timedelta(hours=1))
    await write(connection, "mail", every=timedelta(hours=1), tenant_id="acme")
    assert listed(database_url, "pause", "report") == [{"schedule": "report", "did": "paused"}]
    assert listed(database_url, "pause", "report") == [{"schedule": "report", "did": "already paused"}]
    assert listed(database_url, "pause", "mail", "--tenant", "acme")[0]["did"] == "paused"
    [ran] = listed(database_url, "run", "report")
    assert str(await connection.fetchval("select id from pushq.jobs")) == ran["job"]
    assert listed(database_url, "resume", "report")[0]["did"] == "resumed"
    assert listed(database_url, "resume", "report")[0]["did"] == "not paused"
    assert listed(database_url, "remove", "report")[0]["did"] == "removed"
    assert await row_of(connection, "report") is None
    assert (await row_of(connection, "mail"))["paused_at"]


@pytest.mark.parametrize("verb", ["pause", "resume", "run", "remove"])
async def test_an_unknown_schedule_is_told_with_what_may_have_been_meant(
    database_url: str, connection: Connection, verb: str
) -> None:
    await write(connection, "report")
    await write(connection, "mail", tenant_id="acme")
    ended = invoke("schedules", verb, "reprot", "mail", "xyz", url=database_url)
    assert ended.exit_code == 1
    assert ended.stderr.splitlines() == [
        "pushq: There is no schedule 'reprot'; did you mean 'report'?",
        "pushq: The schedule 'mail' belongs to a tenant; name the tenant with --tenant.",
        "pushq: There is no schedule 'xyz'; `pushq schedules` lists all.",
    ]
    assert await connection.fetchval("select count(*) from pushq.schedules where paused_at is null") == 2


async def test_next_tells_the_slots_in_the_zone_and_in_utc(database_url: str, connection: Connection) -> None:
    await write(
        connection, "report", cron="30 2 * * *", zone="Europe/Berlin", next_at=datetime(2099, 3, 28, 1, 30, tzinfo=UTC)
    )
    assert listed(database_url, "next", "report", "--count", "3") == [
        {"in_zone": "2099-03-28T02:30:00+01:00", "in_utc": "2099-03-28T01:30:00Z"},
        {"in_zone": "2099-03-29T03:00:00+02:00", "in_utc": "2099-03-29T01:00:00Z"},
        {"in_zone": "2099-03-30T02:30:00+02:00", "in_utc": "2099-03-30T00:30:00Z"},
    ]
    await write(connection, "often", every=timedelta(hours=1), paused_at=datetime.now(UTC))
    assert len(listed(database_url, "next", "often")) == 5


def test_an_expression_is_tried_out_without_a_database() -> None:
    ended = invoke("schedules", "next", "--cron", "0 0 29 2 *", "--zone", "Asia/Tokyo", "--count", "2", "--json")
    years = [json.loads(line)["in_zone"][:16] for line in ended.stdout.splitlines()]
    assert years == ["2028-02-29T00:00", "2032-02-29T00:00"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["next"], "Give the name of a schedule, or an expression with --cron."),
        (["next", "report", "--cron", "* * * * *"], "Give the name of a schedule, or an expression with --cron."),
        (["next", "--cron", "0 0 30 2 *"], "'0 0 30 2 *' never comes due: none of its months has the day."),
        (["next", "--cron", "1--100000000 * * * *"], "cannot be read: bad minute."),
        (["next", "--cron", "* * * * *", "--zone", "Mars"], "The zone 'Mars' is not known"),
        (["next", "--cron", "* * * * *", "--count", "0"], "0 is not in the range"),
        (["next", "nope"], "There is no schedule 'nope'; `pushq schedules` lists all."),
        (["run"], "Missing argument 'NAME...'"),
        (["pause", "m\udcff"], "The argument 'm\\xff' is not UTF-8"),
    ],
)
async def test_bad_input_is_refused_in_a_sentence(database_url: str, arguments: list[str], sentence: str) -> None:
    ended = invoke("schedules", *arguments, url=database_url)
    assert (ended.exit_code, ended.stdout) == (2, "")
    assert sentence in " ".join(ended.stderr.split())
    assert "Traceback" not in ended.stderr
