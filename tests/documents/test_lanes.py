"""The pages of jobs that share things: what they show runs as it stands, and does what they say."""

from __future__ import annotations

import json
import re
import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from pushq import NewJob
from pushq.testing import run
from tests.support.commands import invoke
from tests.support.jobs import Connection, count, finished, insert, row_of
from tests.support.pages import blocks, section
from tests.support.supervisors import ROOT, supervising

PAGES = ("resources", "limits", "serial-keys", "affinity", "fairness", "why")
ID = "01900000-0000-7000-8000-00000000000"
"""How the ids of the pages begin; 0 is the job that waits."""


def text_of(page: str) -> str:
    return (ROOT / "docs" / "how-to" / f"{page}.md").read_text()


def python_of(page: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    (code,) = blocks("python", text_of(page))
    exec(code, names)
    return names


async def typed(url: str, page: str, jobs: dict[str, UUID] | None = None) -> None:
    """Types the commands of a page, of which each prints what the page shows. jobs: by the last digits of their ids."""
    for block in blocks("console", text_of(page)):
        for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", block, re.MULTILINE):
            asked = re.sub(rf"{ID}(\d)", lambda found: str((jobs or {})[found[1]]), command)
            ended = invoke(*shlex.split(asked, comments=True)[1:], url=url)
            said = re.sub(r"pushq: No supervisor has served queue .* yet\.\n", "", ended.stderr)
            assert (ended.exit_code, said) == (0, ""), command
            if shown:
                expected = re.sub(rf"{ID}(\d)", lambda found: str((jobs or {})[found[1]]), shown)
                assert [line.split() for line in ended.stdout.splitlines()] == [
                    line.split() for line in expected.splitlines()
                ]


async def took(connection: Connection, jobs: list[UUID]) -> None:
    for job in jobs:
        assert await connection.fetchval("select pushq.take($1, 'bert')", job)


async def serving(connection: Connection) -> None:
    """A supervisor lives, whose workers have nothing to do with the jobs of the page."""
    tasks = ["image.render", "mail.send", "account.sync", "report.build", "chat.answer"]
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until, tasks, queues, workers) values "
        "('anna', 'here', 1, '1 hour', now() + interval '1 hour', $1, '{default,models}', 10)",
        tasks,
    )


@pytest.mark.parametrize("page", PAGES)
async def test_the_statements_run_in_their_order(connection: Connection, page: str) -> None:
    for block in blocks("sql", text_of(page)):
        await connection.execute(block)


async def test_resources(database_url: str, connection: Connection) -> None:
    await serving(connection)
    first, *_ = blocks("sql", text_of("resources"))
    await connection.execute(first)
    await connection.execute("delete from pushq.jobs")
    holders = [*await insert(connection, "image.render", needs=["gpu"])]
    holders += await insert(connection, "image.render", needs={"gpu": 2})
    [waits] = await insert(connection, "image.render", needs={"gpu": 2})
    await took(connection, holders)
    await typed(database_url, "resources", {"0": waits, "1": holders[0], "2": holders[1]})
    assert len(await connection.fetch(blocks("sql", section("how-to/resources.md", "Watch it"))[0])) == 2


async def test_resources_in_python(connection: Connection) -> None:
    names = python_of("resources")
    await connection.execute("select pushq.limit('gpu', 4)")
    await names["submit"](7, connection)
    assert json.loads(await connection.fetchval("select needs from pushq.jobs")) == {"gpu": 2}
    assert names["tasks"].needs == {"image.render": {"gpu": 1}}


@pytest.mark.parametrize(
    ("rule", "starts"), [("", 1), ("select pushq.limit('gpu', 4)", 4), ("select pushq.limit('gpu', 0)", 0),
                         ("select pushq.limit('gpu')", 9), ("select pushq.limit('gpu', 4), pushq.unlimit('gpu')", 1)]
)  # fmt: skip
async def test_the_table_of_capacities(connection: Connection, rule: str, starts: int) -> None:
    if rule:
        await connection.execute(rule)
    jobs = await insert(connection, "echo", 9, needs=["gpu"])
    assert sum([bool(await connection.fetchval("select pushq.take($1, 'bert')", job)) for job in jobs]) == starts


async def test_limits(database_url: str, connection: Connection) -> None:
    first, _, *_ = blocks("sql", text_of("limits"))
    await connection.execute(first)
    await connection.execute("update pushq.resources set burst = 20")
    await typed(database_url, "limits")
    assert python_of("limits")["tasks"].needs == {"mail.send": {"api.example.com": 1}}


async def test_a_rate_lets_a_burst_begin_and_then_one_at_a_time(connection: Connection) -> None:
    """At most burst and rate times t in any stretch."""
    await connection.execute("select pushq.limit('api.example.com', rate => 10, burst => 20)")
    jobs = await insert(connection, "mail.send", 30, needs=["api.example.com"])
    starts = [await connection.fetchval("select pushq.take($1, 'bert')", job) for job in jobs * 9]
    assert len([token for token in starts if token]) >= 20
    rows = await connection.fetch("select started_at from pushq.jobs where status = 'running' order by started_at")
    begun = [row["started_at"].timestamp() for row in rows]
    for first, one in enumerate(begun):
        for number, other in enumerate(begun[first:], 1):
            assert number <= 20 + 10 * (other - one + 0.1)


async def test_serial_keys(database_url: str, connection: Connection) -> None:
    await serving(connection)
    sync = python_of("serial-keys")["sync"]
    for _ in range(3):
        await sync(7, connection)
    first, before, waits = [row["id"] for row in await connection.fetch("select id from pushq.jobs order by id")]
    await took(connection, [first])
    await typed(database_url, "serial-keys", {"0": waits, "1": first, "2": before})
    assert len(await connection.fetch(blocks("sql", section("how-to/serial-keys.md", "Watch it"))[0])) == 3


TASKS = """
from datetime import timedelta

import anyio

from pushq import Tasks, current_job

tasks = Tasks()


@tasks.register("account.sync", backoff=lambda failures: timedelta(seconds=1))
async def sync(fails: bool = False) -> None:
    await anyio.sleep(0.02)
    if fails and current_job().attempt == 1:
        raise ValueError
"""


@pytest.mark.parametrize("is_strict", [False, True])
async def test_a_job_that_fails_lets_the_next_of_its_key_run_unless_the_key_is_strict(
    database_url: str, connection: Connection, tmp_path: Path, is_strict: bool
) -> None:
    (tmp_path / "accounts.py").write_text(TASKS)
    await connection.execute("select pushq.limit('key:*', 1, strict => $1)", is_strict)
    jobs = [
        (await insert(connection, "account.sync", limit_key="account:7", payload={"fails": fails}))[0]
        for fails in (True, False, False)
    ]
    with supervising(database_url, tasks="accounts:tasks", directory=str(tmp_path), POLL_INTERVAL="0"):
        rows = await finished(connection, *jobs)
    ends = [row["finished_at"] for row in rows]
    assert (ends[0] < ends[1] < ends[2]) is is_strict
    assert is_strict or ends[1] < ends[2] < ends[0]
    runs = sorted((row["started_at"], row["finished_at"]) for row in rows)
    assert all(ended <= begun for (_, ended), (begun, _) in pairwise(runs))


async def test_affinity(connection: Connection) -> None:
    names = python_of("affinity")
    await names["ask"]("Why?", "llama", connection)
    row = await row_of(connection, await connection.fetchval("select id from pushq.jobs"))
    assert (row["affinity"], row["queue"]) == ("llama", "models")
    job = NewJob("chat.answer", {"question": "Why?"}, affinity="llama")
    assert await run(names["tasks"], job) == "Why? Ask the weights of llama."


async def test_fairness(database_url: str, connection: Connection) -> None:
    await serving(connection)
    await connection.execute(blocks("sql", text_of("fairness"))[0])
    build = python_of("fairness")["build"]
    await build(8, "acme", connection)
    waits, weights = (
        await connection.fetchval("select max(id::text)::uuid from pushq.jobs"),
        blocks("sql", section("how-to/fairness.md", "Weights")),
    )
    await connection.execute(weights[0])
    await typed(database_url, "fairness", {"0": waits})
    tenants, queues = blocks("sql", section("how-to/fairness.md", "Watch it"))
    assert [tuple(row)[:2] for row in await connection.fetch(tenants)] == [("acme", 2)]
    assert [tuple(row) for row in await connection.fetch(queues)] == [("default", "tenant")]


async def test_why(database_url: str, connection: Connection) -> None:
    await serving(connection)
    await connection.execute("select pushq.limit('gpu', 4)")
    holders = [*await insert(connection, "image.render", needs=["gpu"])]
    holders += await insert(connection, "image.render", needs={"gpu": 2})
    await insert(connection, "image.render")
    [waits] = await insert(connection, "image.render", needs={"gpu": 2})
    await took(connection, holders)
    await typed(database_url, "why", {"0": waits, "1": holders[0], "2": holders[1]})
    causes = await python_of("why")["why"](waits, connection)
    assert [detail.get("free", detail.get("jobs")) for _, detail in causes] == [1, 1]
    asks, stands = blocks("sql", text_of("why"))[0].replace(f"{ID}0", str(waits)).strip().split(";\n")
    assert [row["cause"] for row in await connection.fetch(asks)] == ["needs", "behind"]
    assert await connection.fetchval(stands.removesuffix(";")) == 1


def test_the_page_of_why_names_every_cause_of_the_reference() -> None:
    causes = set(re.findall(r"^\| `(\w+)`: ", section("how-to/why.md", "What it tells"), re.MULTILINE))
    head = (ROOT / "migrations" / "0025_why.sql").read_text().partition("\ncreate function pushq.why(")[0]
    known = set(re.findall(r"^--   (\w+) +\{", head.rpartition("-- Why a queued job does not run")[2], re.MULTILINE))
    assert causes == known


@pytest.mark.parametrize("page", PAGES)
def test_every_error_that_a_page_names_is_one(page: str) -> None:
    told = section(f"how-to/{page}.md", "What may go wrong")
    sources = "".join(path.read_text() for path in (ROOT / "migrations").glob("00*.sql"))
    for name in re.findall(r"`((?:jobs|tenants|queues|resources)_\w+)`", told):
        assert name in sources, name


async def test_jobs_that_are_there_are_stamped_by_the_statement_of_the_page(connection: Connection) -> None:
    await insert(connection, "report.build", queue="reports")
    await connection.execute("select pushq.limit('queue:reports', 10)")
    assert await count(connection, "needs is not null") == 0
    (stamps,) = blocks("sql", section("how-to/limits.md", "Limits on jobs that are there already"))
    assert tuple(await connection.fetchrow(stamps) or ()) == (1, 1, None)
    assert await count(connection, "needs is not null") == 1
