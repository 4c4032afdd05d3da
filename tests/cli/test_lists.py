"""Lists of jobs, queues and supervisors are bounded. Each job has its worker, or its reason to wait."""

from __future__ import annotations

import json
import math
from typing import Any
from uuid import UUID, uuid4

import pytest

from pushq.database.session import Session
from pushq.desk import PLANS, Desk, Filter
from pushq.desk.search import pages
from pushq.desk.waiting import duration
from tests.support.commands import invoke
from tests.support.jobs import Connection, insert
from tests.support.supervisors import supervising
from tests.support.waiting import eventually

FILL = """
insert into pushq.tasks (name) select 't' || i from generate_series(0, 9) as i;
insert into pushq.jobs (
    task, queue, tenant_id, status, attempt, started_at, finished_at, supervisor, pool, token, error, finished_on)
select
    't' || i % 10, 'q' || i % 3, 'n' || i % 7,
    case when i % 100 = 7 then 'failed' when i % 1000 = 1 then 'cancelled' else 'succeeded' end,
    1, now(), now(), 's', 1, gen_random_uuid(), case when i % 100 = 7 then 'E: x' end, day
from generate_series(1, {finished}) as i
join (select day, row_number() over (order by day) - 1 as n, count(*) over () as days from pushq.days) as it
    on n = i % days;
insert into pushq.jobs (task, queue, priority) select 'rare', 'rare', i % 3 - 1 from generate_series(1, 30) as i;
insert into pushq.jobs (task, queue) select 'unknown' || i % 3, 'rare' from generate_series(1, 30) as i;
insert into pushq.jobs (task, queue, priority)
select 't' || i % 10, 'q' || i % 3, case when i % 5 = 0 then i % 7 - 3 else 0 end
from generate_series(1, {queued}) as i;
update pushq.jobs_unfinished
set status = 'running', token = gen_random_uuid(), supervisor = 's', pool = 1, started_at = now()
where id in (select id from pushq.jobs_unfinished order by id desc limit 10);
analyze;
"""

FILTERS = [
    Filter(),
    Filter(status="failed"),
    Filter(status="failed", task="t7"),
    Filter(status="failed", task="t3"),
    Filter(status="cancelled", task="t1", queue="q1"),
    Filter(status="succeeded", tenant="n3"),
    Filter(status="failed", tenant="n3"),
    Filter(status="queued"),
    Filter(status="queued", queue="rare"),
    Filter(status="queued", task="rare"),
    Filter(status="queued", queue="q1", task="t4"),
    Filter(status="running"),
    Filter(status="running", task="t9"),
    Filter(is_unknown=True),
    Filter(is_unknown=True, task="unknown2"),
    Filter(status="failed", is_unknown=True),
    Filter(task="nobody"),
    Filter(queue="q2", task="t5"),
    Filter(supervisor="s", status="running"),
    Filter(supervisor="s", status="queued"),
    Filter(correlation_id="x"),
]


async def plain(connection: Connection, wanted: Filter) -> list[UUID]:
    """The ids by the plainest SQL."""
    rows = await connection.fetch(
        """
        select id from pushq.jobs as job
        where ($1::text is null or status = $1) and ($2::text is null or queue = $2) and ($3::text is null or task = $3)
        and ($4::text is null or tenant_id = $4) and ($5::text is null or correlation_id = $5)
        and ($6::text is null or supervisor = $6)
        and (not $7 or status = 'queued' and not exists (select from pushq.tasks where name = job.task))
        order by id desc
        """,
        wanted.status, wanted.queue, wanted.task, wanted.tenant, wanted.correlation_id, wanted.supervisor,
        wanted.is_unknown,
    )  # fmt: skip
    return [row["id"] for row in rows]


@pytest.mark.parametrize("few_queued", [0, 10_000])
async def test_every_filter_finds_page_by_page_what_plain_sql_finds(
    database_url: str, connection: Connection, monkeypatch: pytest.MonkeyPatch, few_queued: int
) -> None:
    """With the indexes of claims, and without them, as where too many jobs are queued."""
    monkeypatch.setattr("pushq.desk.search.FEW_QUEUED", few_queued)
    monkeypatch.setattr("pushq.desk.search.FIRST_LOOK", 300)
    await connection.execute(FILL.format(finished=5_000, queued=1_000))
    async with Desk.opened(database_url) as desk:
        for wanted in FILTERS:
            expected, found, after = await plain(connection, wanted), list[UUID](), None
            while True:
                listing = await desk.list_jobs(wanted, 70, after=after, seconds=math.inf)
                assert len(listing.rows) <= 70
                found += [row["id"] for row in listing.rows]
                after = listing.older
                if after is None:
                    break
            assert found == expected, wanted


async def test_no_list_scans_a_table_of_jobs(database_url: str, connection: Connection) -> None:
    """By the plans of each statement, with many jobs of each kind."""
    await connection.execute(FILL.format(finished=20_000, queued=5_000))
    asked = _Asked(database_url)
    for wanted in FILTERS:
        async for page in pages(asked, wanted, None, 50):
            assert page.looked <= 20_000
    await Desk(asked).list_queues()
    await Desk(asked).list_supervisors()
    await Desk(asked).list_jobs(Filter(), 50)
    assert len(asked.plans) > 30
    for plan in asked.plans:
        scanned = [
            node["Relation Name"] for node in _nodes(json.loads(plan)[0]["Plan"]) if node["Node Type"] == "Seq Scan"
        ]
        assert not [table for table in scanned if table.startswith("jobs")], plan
    await asked.close()


class _Asked(Session):
    """A desk's session that keeps the plan of each statement."""

    def __init__(self, url: str) -> None:
        super().__init__(url, "asked", settings=PLANS)
        self.plans: list[str] = []

    async def fetch(self, statement: str, *arguments: object, deadline: float | None = None) -> list[Any]:
        (row,) = await super().fetch(f"explain (format json) {statement}", *arguments)
        self.plans.append(row[0])
        return await super().fetch(statement, *arguments, deadline=deadline)


def _nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for part in plan.get("Plans", []) for node in _nodes(part))]


async def test_a_list_stops_after_a_moment_and_says_how_to_go_on(database_url: str, connection: Connection) -> None:
    await connection.execute(FILL.format(finished=3_000, queued=10))
    async with Desk.opened(database_url) as desk:
        listing = await desk.list_jobs(Filter(task="nobody"), 50, seconds=0)
    assert (listing.rows, listing.looked < 3_000, listing.older is not None) == ([], True, True)

    ended = invoke("jobs", "--task", "t1", "--limit", "2", url=database_url)
    last = ended.stdout.splitlines()[-1].split()[0]
    assert ended.stderr == f"Older jobs: --after {last}\n"
    following = invoke(
        "jobs", "--task", "t1", "--limit", "1000", "--after", last, "--whole", "--json", url=database_url
    )
    ids = [json.loads(line)["id"] for line in following.stdout.splitlines()]
    assert ids == [str(job_id) for job_id in (await plain(connection, Filter(task="t1")))[2:]]


async def test_jobs_that_share_an_id_stand_on_one_page(database_url: str, connection: Connection) -> None:
    shared = uuid4()
    for _ in range(3):
        await insert(connection, "again", id=shared)
        await connection.execute("select pushq.cancel($1)", shared)
    async with Desk.opened(database_url) as desk:
        listing = await desk.list_jobs(Filter(status="cancelled"), 1)
    assert [row["id"] for row in listing.rows] == [shared] * 3


LIVING = """
insert into pushq.tasks (name) values ('mail'), ('report'), ('old');
insert into pushq.supervisors (name, host, pid, lease, lease_until, tasks, queues, workers) values
    ('a', 'here', 1, '30 s', now() + interval '1 h', '{mail}', '{default,mail}', 2);
"""


@pytest.mark.parametrize(
    ("job", "change", "reason"),
    [
        ({}, "", None),
        ({}, "select pushq.pause('default')", "queue 'default' is paused; `pushq queues resume default` lets it go on"),
        ({}, "select pushq.pause('*')", "all queues are paused; `pushq queues resume --all` lets them go on"),
        ({"task": "mial"}, "", "no supervisor has ever known a task 'mial'; did you mean 'mail'?"),
        ({"task": "old"}, "", "no live supervisor knows task 'old'"),
        ({"queue": "x"}, "", "the supervisors that know task 'mail' serve other queues: default, mail"),
        ({}, "update pushq.supervisors set lease_until = now()", "no supervisor is alive"),
        ({}, "update pushq.jobs_unfinished set run_at = now() + interval '2 h 30 min'", "due in 2 h 29 min"),
        ({}, "update pushq.jobs_unfinished set crashes = 2", "killed two processes; waits for a pool of its own"),
        (
            {},
            """insert into pushq.jobs (task, status, token, supervisor, pool, started_at)
            select 'mail', 'running', gen_random_uuid(), 'a', 1, now() from generate_series(1, 2)""",
            "all workers that may run the job are busy",
        ),
    ],
)
async def test_a_queued_job_says_in_words_why_it_waits(
    database_url: str, connection: Connection, job: dict[str, Any], change: str, reason: str | None
) -> None:
    await connection.execute(LIVING)
    [job_id] = await insert(connection, **{"task": "mail", **job})
    if change:
        await connection.execute(change)

    async with Desk.opened(database_url) as desk:
        [row] = (await desk.list_jobs(Filter(status="queued"), 50)).rows
        shown = await desk.find(job_id)
    assert row["waits"] == reason
    assert shown
    assert shown["waits"] == reason
    printed = invoke("jobs", "show", str(job_id), url=database_url).stdout
    assert (f"waits           {reason}\n" in printed) == (reason is not None)


async def test_a_retried_job_names_its_last_error_beside_the_reason(database_url: str, connection: Connection) -> None:
    await connection.execute(LIVING)
    await insert(connection, "mail")
    await connection.execute(
        "update pushq.jobs_unfinished set error = 'ValueError: no', run_at = now() + interval '90 s'"
    )
    line = invoke("jobs", url=database_url).stdout.splitlines()[1]
    assert line.endswith("waits: due in 1 min; last: ValueError: no")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0.0 s"), (2.46, "2.5 s"), (42, "42 s"), (60, "1 min"), (12_000, "3 h 20 min"), (792_000, "9 d 4 h")],
)
def test_a_duration_is_said_as_people_say_it(seconds: float, said: str) -> None:
    assert duration(seconds) == said


async def test_supervisors_say_what_they_serve_and_run(database_url: str, connection: Connection) -> None:
    assert invoke("supervisors", url=database_url).stderr == "No supervisor is alive.\n"
    with supervising(database_url, "--queue", "mail", "--queue", "default", "--concurrency", "3", "--processes", "2"):
        await insert(connection, "sleep", payload={"seconds": 60})
        await eventually(lambda: connection.fetchval("select true from pushq.jobs where status = 'running'"))
        [row] = [json.loads(line) for line in invoke("supervisors", "--json", url=database_url).stdout.splitlines()]
        assert (row["is_alive"], row["workers"], row["running"], row["queues"]) == (True, 6, 1, ["default", "mail"])
        assert 0 < row["lease_seconds"] <= 30
        assert "sleep" in row["tasks"]
        listed = invoke("jobs", "--supervisor", row["name"], "--status", "running", url=database_url).stdout
        assert f"{row['name']} pool " in listed
        header, line = invoke("supervisors", url=database_url).stdout.splitlines()
        assert header.split() == "supervisor alive since lease workers running oldest queues tasks".split()
        assert " and " in line.rpartition("  ")[2]


async def test_a_dead_supervisor_is_listed_with_the_jobs_that_it_still_holds(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(LIVING)
    await connection.execute("update pushq.supervisors set lease_until = now() - interval '5 min'")
    await connection.execute(
        "insert into pushq.jobs (task, status, token, supervisor, pool, started_at) "
        "values ('mail', 'running', gen_random_uuid(), 'gone', 1, now() - interval '1 h')"
    )
    gone, a = invoke("supervisors", url=database_url).stdout.splitlines()[1:]
    assert gone.split()[:6] == ["gone", "no", "-", "-", "-", "1"]
    assert a.split()[:2] == ["a", "no"]
    assert "-5 min" in a


async def test_a_long_queue_shows_the_count_of_the_census(database_url: str, connection: Connection) -> None:
    await insert(connection, "echo", 2_500)
    await insert(connection, "echo", 3, queue="short", priority=5)

    def queued() -> list[str]:
        return [line.split()[1] for line in invoke("queues", url=database_url).stdout.splitlines()[1:]]

    assert queued() == ["1000+", "3"]
    await connection.execute("insert into pushq.census values ('default', 'queued', 2500, now() - interval '1 h')")
    assert queued() == ["~2500", "3"]
    long, short = [json.loads(line) for line in invoke("queues", "--json", url=database_url).stdout.splitlines()]
    assert (long["queued"], long["is_exact"], short["queued"], short["is_exact"]) == (2500, False, 3, True)
    assert long["oldest_seconds"] > 3599
