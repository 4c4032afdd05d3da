"""What other people make of pushq's tables: publications, triggers, keys, views, rights that they take away."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Mapping
from datetime import date
from functools import partial
from uuid import uuid4

import asyncpg
import pytest

from pushq.database.migrate import migrate, migrations
from pushq.database.session import Session
from pushq.desk import Desk, Filter
from pushq.outcome import Kind, Outcome
from pushq.pool.store import Claimant, Terms
from pushq.sweeper import Sweeper
from tests.support.days import make_day
from tests.support.jobs import Connection, count, die_with_them, finished, has_count, insert, row_of
from tests.support.roles import a_login_each
from tests.support.store import Store
from tests.support.supervisors import ROOT, RunningSupervisor, supervising
from tests.support.waiting import eventually, wait_until

LEAVES = """
    select relname
    from pg_class
    where relnamespace = 'pushq'::regnamespace and relkind = 'r'
    order by relname
"""


async def test_every_table_may_be_changed_under_a_publication_for_all_tables(connection: Connection) -> None:
    """As for an upgrade by replication. PostgreSQL looks whether a table may be changed before it sees a row."""
    await connection.execute("set client_min_messages = error; create publication everything for all tables")
    tables = [row["relname"] for row in await connection.fetch(LEAVES)]
    assert {"jobs_unfinished", "tally_log", "days"} < set(tables)
    for table in [*tables, "jobs"]:
        column = await connection.fetchval(
            "select quote_ident(attname) from pg_attribute where attrelid = $1::regclass and attnum = 1",
            f"pushq.{table}",
        )
        await connection.execute(f"update pushq.{table} set {column} = {column} where tableoid = 0")
        await connection.execute(f"delete from pushq.{table} where tableoid = 0")


REPLACE = """standing => 'replace', payload => '{"n": 2}', longest_delay => '1 hour'"""


async def columns_of_any_name(connection: Connection, half: int) -> str:
    """What adds them, also those that a statement or a function of pushq's uses for something else.

    In halves, since a table has 1,600 columns at most.
    """
    files = [*(ROOT / "migrations").glob("*.sql"), *(ROOT / "pushq").glob("*/sql/*.sql")]
    words = set(re.findall(r"[a-z_]+", " ".join(re.sub("--.*", "", file.read_text()) for file in files)))
    taken = await connection.fetch("select attname from pg_attribute where attrelid = 'pushq.jobs'::regclass")
    names = sorted(words - {row["attname"] for row in taken})[half::2]
    return "alter table pushq.jobs " + ", ".join(f'add "{name}" int' for name in names)


@pytest.mark.parametrize("half", [0, 1])
async def test_a_column_of_somebody_s_may_have_any_name(database_url: str, connection: Connection, half: int) -> None:
    await connection.execute(await columns_of_any_name(connection, half))
    session = Session(database_url, "test", settings={"enable_seqscan": "on"})
    store, desk = Store(session), Desk(session)
    claimant = Claimant("here", 1, ("default",), ("echo",))
    await store.heartbeat("here", "here", 1, 3600)
    await store.register(claimant, {})
    ids = await insert(connection, "echo", 12)
    await store.next_due(claimant)
    assert len(await store.claimable(claimant, 12)) == 12
    jobs = await store.claim(claimant, token := uuid4(), 9)
    jobs += await store.claim_these(claimant, uuid4(), ids[9:])
    assert len(jobs) == 12
    assert len(await store.take_back("here", token)) == 9
    kinds = [Kind.SUCCEEDED, Kind.FAILED, Kind.CANCELLED, Kind.RETRIED, Kind.SNOOZED, Kind.RELEASED]
    outcomes = [Outcome(job, kind) for job, kind in zip(jobs, kinds, strict=False)]
    assert await store.still_held(outcomes) == {one.job.fence for one in outcomes}
    assert await store.locked_by_others(outcomes) == set()
    assert await store.finish(outcomes) == []
    assert len(await store.finished_with_token(outcomes)) == 3
    assert len(await store.requeue(["here"], crashed=False)) == 6
    await connection.execute("update pushq.jobs_unfinished set crashes = 2, run_at = now()")
    assert len(await store.next_suspect(claimant, [])) == 1
    (suspect,) = await store.claim_suspect(claimant, uuid4())
    await store.survey("here", ("default",), ("echo",), 10)
    assert [one.status for one in await store.requeue(["here"], crashed=True)] == ["failed"]
    assert await desk.change("retry", suspect.id) == "queued"
    assert await desk.change("cancel", suspect.id) == "cancelled"
    await desk.change("pause", "default")
    await desk.change("resume", "default")
    assert len((await desk.list_jobs(Filter(), 100)).rows) == 12
    assert await desk.find(suspect.id)
    for inserted, way in ((True, "key_window => '1 hour'"), (False, "key_window => '1 hour'"), (False, REPLACE)):
        call = f"select inserted from pushq.enqueue('echo', unique_key => 'k', {way})"
        assert await connection.fetchval(call) is inserted
    replaced = await connection.fetchval("select payload from pushq.jobs where unique_key = 'k'")
    assert replaced == '{"n": 2}'
    swept = await Sweeper(store, retention=604800).sweep()
    await session.close()

    assert swept.troubles == ()


@pytest.mark.parametrize("half", [0, 1])
async def test_a_column_of_somebody_s_may_have_any_name_beside_jobs_that_share_things(
    database_url: str, connection: Connection, half: int
) -> None:
    await connection.execute(await columns_of_any_name(connection, half))
    session = Session(database_url, "test", settings={"enable_seqscan": "on"})
    store, desk = Store(session), Desk(session)
    claimant = Claimant("here", 1, ("default", "fair"), ("echo",))
    await store.heartbeat("here", "here", 1, 3600)
    await store.register(claimant, {"echo": {"cpu": 1}})
    await connection.execute(
        "select pushq.limit('cpu', 4), pushq.limit('api', rate => 0.001, burst => 3),"
        "pushq.limit('key:*', strict => true),"
        "pushq.limit('queue:default', 100), pushq.be_fair('fair', 'tenant'), pushq.set_turn('default', '1 s')"
    )
    alike = await insert(connection, "echo", 200, needs=["gpu", "api"])
    several = [
        (await insert(connection, "echo", needs={"cpu": 2}, limit_key=f"k{n}", affinity="m"))[0] for n in range(5)
    ]
    shares = [(await insert(connection, "echo", 40, tenant_id=name, queue="fair"))[0] for name in "ab"]
    inserted = (
        "select inserted from pushq.enqueue('echo', unique_key => 'k', needs => '[\"gpu\"]', standing => 'replace')"
    )
    assert [await connection.fetchval(inserted) for _ in range(2)] == [True, False]
    await connection.execute("update pushq.jobs_unfinished set run_at = now() - interval '2 s'")
    await store.next_due(claimant)

    terms = Terms(most_holding=10, lanes_first=True, near=["affinity:m"])
    jobs = await store.claim(claimant, uuid4(), 10, terms=terms)
    assert jobs
    assert await store.claim_these(claimant, uuid4(), alike[-3:]) is not None
    await store.note_affinities(claimant, {"m": 1})
    for job in [*alike[-2:], several[-1], shares[1]]:
        assert await connection.fetch("select * from pushq.why($1)", job) is not None
        await connection.fetchval("select pushq.position($1)", job)
    for queue in ("default", "fair"):
        assert await connection.fetch("select * from pushq.why_queue($1)", queue)
    assert await desk.list_limits()
    await connection.execute("select * from pushq.stamp()")
    assert await store.finish([Outcome(job, Kind.RETRIED) for job in jobs[:2]]) == []
    assert await store.finish([Outcome(job, Kind.SUCCEEDED) for job in jobs[2:]]) == []
    await store.ring_for_units()
    await connection.execute("update pushq.jobs_unfinished set crashes = 2 where limit_key is not null")
    await store.next_suspect(claimant, [])
    await store.claim_suspect(claimant, uuid4())
    await connection.execute("select * from pushq.take_next('default', 'guest')")
    swept = await Sweeper(store, retention=604800).sweep()
    await connection.execute("select pushq.delete_tenant('a')")
    await session.close()

    assert swept.troubles == ()


@pytest.mark.parametrize("half", [0, 1])
async def test_migrations_pass_beside_columns_of_any_name(
    empty_database_url: str, connection: Connection, half: int
) -> None:
    older = await asyncpg.connect(empty_database_url)
    for migration in migrations()[:22]:
        await older.execute(migration.sql)
    await older.execute(await columns_of_any_name(connection, half))
    await older.close()
    assert len(await migrate(empty_database_url)) == len(migrations()) - 22


async def test_a_retry_that_an_index_of_somebody_s_forbids_names_that_index(connection: Connection) -> None:
    first, _ = await insert(connection, "echo", 2)
    await connection.execute(f"select pushq.cancel('{first}')")
    await connection.execute("create unique index one_of_each on pushq.jobs_unfinished (task)")
    with pytest.raises(asyncpg.UniqueViolationError, match="one_of_each"):
        await connection.execute(f"select pushq.retry('{first}')")


RAISE = """
create or replace function public.say_no() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;
create trigger say_no before insert or update or delete on pushq.{table} for each row execute function public.say_no();
"""
SAID: Mapping[str, str] = {
    "supervisors": "statement rejected",
    "tally_log": "outcomes put aside",
    "tallies": "chore=fold",
    "census_clock": "chore=",
}
"""Where a trigger that raises is noticed, and by what words."""


async def test_a_trigger_that_raises_where_pushq_does_its_upkeep_is_said_and_ends_nobody(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url) as supervisor:
        pools = supervisor.pools
        for table, words in SAID.items():
            await connection.execute(RAISE.format(table=table))
            jobs = await insert(connection, "echo", 3)
            await eventually(partial(_says, supervisor, words))
            await connection.execute(f"drop trigger say_no on pushq.{table}")
            rows = await finished(connection, *jobs)
            assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}
        assert supervisor.pools == pools
        assert supervisor.stop() == 0


async def test_a_pool_to_whose_registration_a_trigger_objects_runs_jobs_and_is_registered_later(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(RAISE.format(table="tasks"))
    with supervising(database_url) as supervisor:
        await finished(connection, *await insert(connection, "echo", 3))
        await eventually(partial(_says, supervisor, "chore failed chore=register"))
        await connection.execute("drop trigger say_no on pushq.tasks")
        await eventually(partial(_knows, connection, "echo"))


async def _knows(connection: Connection, task: str) -> bool:
    return bool(await connection.fetchval("select true from pushq.tasks where name = $1", task))


RIGHTS = (
    "select on pushq.jobs_unfinished",
    "update on pushq.jobs_unfinished",
    "delete on pushq.jobs_unfinished",
    "insert on pushq.jobs",
    "insert on pushq.tally_log",
    "delete on pushq.tally_log",
    "update on pushq.supervisors",
    "select on pushq.queues",
    "update on all sequences in schema pushq",
    "usage on schema pushq",
)


async def test_rights_that_are_taken_away_for_a_while_end_nobody_and_cost_no_attempt(
    database_url: str, connection: Connection
) -> None:
    """Jobs run in that time or wait until it is over."""
    async with a_login_each(connection, database_url) as logins:
        with supervising(logins.url_as("worker")) as supervisor:
            pools, worker = supervisor.pools, logins.group("worker")
            for right in RIGHTS:
                await connection.execute(f"revoke {right} from {worker}")
                jobs = await insert(connection, "echo", 3)
                await asyncio.sleep(0.3)
                await connection.execute(f"grant {right} to {worker}")
                rows = await finished(connection, *jobs)
                assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}, right
            assert supervisor.pools == pools
            assert supervisor.stop() == 0


async def test_a_pool_that_may_not_open_its_gate_looks_for_jobs_all_the_same_and_says_so(
    database_url: str, connection: Connection
) -> None:
    async with a_login_each(connection, database_url) as logins:
        await connection.execute(f"revoke update on all sequences in schema pushq from {logins.group('worker')}")
        with supervising(logins.url_as("worker"), POLL_INTERVAL="600") as supervisor:
            for _ in range(3):
                await finished(connection, *await insert(connection, "echo", 3))
            wait_until(lambda: "chore failed chore=wait" in supervisor.said)
            assert "permission denied for sequence" in supervisor.said
            assert "pool held up" not in supervisor.said


FORBID = """
create function public.forbid() returns trigger language plpgsql as $$
begin
    if old.correlation_id = 'forbidden' then
        raise exception 'audit says no';
    end if;
    return coalesce(new, old);
end
$$;
create trigger forbid before {when} on pushq.jobs_unfinished for each row execute function public.forbid();
"""


async def test_an_outcome_to_which_a_trigger_objects_costs_no_other_job_anything_and_is_released_at_a_drain(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(FORBID.format(when="delete"))
    with supervising(database_url, "--concurrency", "4") as supervisor:
        pools = supervisor.pools
        (forbidden,) = await insert(connection, "echo", correlation_id="forbidden")
        rows = await finished(connection, *await insert(connection, "echo", 100))
        await eventually(partial(_says, supervisor, "outcomes put aside jobs=1"))
        held = await row_of(connection, forbidden)
        assert supervisor.pools == pools
        assert supervisor.stop() == 0
        said = supervisor.said
    released = await row_of(connection, forbidden)

    assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 0)}
    assert (held["status"], held["attempt"], held["crashes"]) == ("running", 1, 0)
    assert (released["status"], released["attempt"], released["crashes"]) == ("queued", 1, 0)
    assert said.count("outcomes put aside") == 1
    assert "Traceback" not in said


async def test_a_job_that_a_trigger_does_not_let_go_of_keeps_no_other_from_being_requeued_or_charged(
    database_url: str, connection: Connection
) -> None:
    """Neither the jobs of a pool that has died, nor those of a supervisor."""
    with supervising(database_url) as supervisor:
        (forbidden,) = await insert(connection, "sleep", payload={"seconds": 60}, correlation_id="forbidden")
        running = await insert(connection, "sleep", 8, payload={"seconds": 1})
        await has_count(connection, 9, "status = 'running'")
        await connection.execute(FORBID.format(when="update"))
        os.kill(supervisor.pools[0], signal.SIGKILL)
        rows = await finished(connection, *running)
        await eventually(partial(_says, supervisor, "jobs left jobs=1"))
        held = await row_of(connection, forbidden)
        await connection.execute("drop trigger forbid on pushq.jobs_unfinished")
        await has_count(connection, 1, f"id = '{forbidden}' and attempt = 2 and status = 'running'")
        assert supervisor.process.poll() is None

    assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 2, 1)}
    assert (held["status"], held["attempt"], held["crashes"]) == ("running", 1, 0)


CLAIMS: Mapping[str, str] = {
    "before it is updated": "create trigger objection before update on pushq.jobs_unfinished for each row",
    "after it is updated": "create trigger objection after update on pushq.jobs_unfinished for each row",
    "when that is committed": (
        "create constraint trigger objection after update on pushq.jobs_unfinished deferrable initially deferred "
        "for each row"
    ),
}
"""When a trigger of somebody's objects to a claim."""
OBJECTION = """
create or replace function public.objection() returns trigger language plpgsql as $$ begin {body} end $$;
{when} when (old.status = 'queued' and old.correlation_id = 'forbidden') execute function public.objection();
"""
BODIES = ("raise exception 'no';", "raise sqlstate '42501';", "raise sqlstate '23514';", "return null;")


async def test_jobs_that_a_trigger_does_not_let_be_claimed_hold_up_no_others_and_run_when_it_is_gone(
    database_url: str, connection: Connection
) -> None:
    """They are the first of their queue, and more than the pool has workers."""
    cases = [(when, BODIES[0]) for when in CLAIMS.values()]
    cases += [(CLAIMS["before it is updated"], body) for body in BODIES[1:]]
    with supervising(database_url, "--concurrency", "4") as supervisor:
        pools = supervisor.pools
        for when, body in cases:
            await connection.execute(OBJECTION.format(when=when, body=body))
            forbidden = await insert(connection, "echo", 30, correlation_id="forbidden")
            others = await finished(connection, *await insert(connection, "echo", 100))
            assert await count(connection, "status = 'queued'") == 30
            late = await finished(connection, *await insert(connection, "echo", 3), within=5)
            await connection.execute("drop function public.objection cascade")
            rows = await finished(connection, *forbidden)
            costs = {(row["status"], row["attempt"], row["crashes"]) for row in [*others, *late, *rows]}
            assert costs == {("succeeded", 1, 0)}
        assert supervisor.pools == pools
        assert "jobs passed over" in supervisor.said
        assert supervisor.stop() == 0


FULL_NOW_AND_THEN = """
create sequence public.claims;
create function public.full_now_and_then() returns trigger language plpgsql as $$ begin
    if nextval('public.claims') % 2 = 0 then
        raise sqlstate '53100' using message = 'No space left on device';
    end if;
    return new;
end $$;
create trigger full_now_and_then before update on pushq.jobs_unfinished
for each row when (new.status = 'running') execute function public.full_now_and_then()
"""


async def test_a_pool_that_is_held_up_again_and_again_is_said_to_go_on_when_it_does_so_for_good(
    database_url: str, connection: Connection
) -> None:
    """A disk that is nearly full refuses each second write."""
    await connection.execute(FULL_NOW_AND_THEN)
    with supervising(database_url) as supervisor:
        for _ in range(8):
            await finished(connection, *await insert(connection, "echo"))
        assert supervisor.said.count("pool held up") == 1
        assert "pools go on" not in supervisor.said
        await connection.execute("drop function public.full_now_and_then cascade")
        wait_until(lambda: "pools go on" in supervisor.said)
        assert supervisor.said.count("pool held up") == supervisor.said.count("pools go on") == 1


async def test_a_suspect_whose_outcome_a_trigger_refuses_holds_up_no_other_suspect_and_no_drain(
    database_url: str, connection: Connection
) -> None:
    (forbidden,) = await insert(connection, "echo", correlation_id="forbidden")
    await connection.execute("update pushq.jobs set crashes = 2")
    await connection.execute(FORBID.format(when="delete"))
    with supervising(database_url, SHUTDOWN_TIMEOUT="20") as supervisor:
        await eventually(partial(_says, supervisor, "outcomes put aside"))
        async with connection.transaction():  # an ordinary pool must not claim them before they are suspects
            others = await insert(connection, "echo", 2)
            await connection.execute("update pushq.jobs set crashes = 2 where id = any($1)", others)
        rows = await finished(connection, *others, within=30)
        assert supervisor.stop(within=10) == 0
    released = await row_of(connection, forbidden)

    assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 2)}
    assert (released["status"], released["attempt"], released["crashes"]) == ("queued", 1, 2)


async def test_a_suspect_that_a_trigger_does_not_let_be_claimed_holds_up_no_other_suspect(
    database_url: str, connection: Connection
) -> None:
    forbidden = await insert(connection, "echo", correlation_id="forbidden")
    others = await insert(connection, "echo", 2)
    await connection.execute("update pushq.jobs set crashes = 2")
    await connection.execute(OBJECTION.format(when=CLAIMS["before it is updated"], body=BODIES[0]))
    with supervising(database_url) as supervisor:
        rows = await finished(connection, *others)
        await connection.execute("drop function public.objection cascade")
        rows += await finished(connection, *forbidden)
        assert supervisor.stop() == 0

    assert {(row["status"], row["attempt"], row["crashes"]) for row in rows} == {("succeeded", 1, 2)}


async def _says(supervisor: RunningSupervisor, words: str) -> bool:
    return words in supervisor.said


async def test_a_view_upon_a_day_past_retention_keeps_that_day_and_no_other(
    database_url: str, connection: Connection
) -> None:
    """The day is emptied and detached all the same."""
    viewed, other, newest = (date(2020, 1, day) for day in (1, 2, 3))
    for day in (viewed, other, newest):
        await make_day(connection, day)
    await connection.execute("create view public.old as select id, task from pushq.jobs_2020_01_01")
    with supervising(database_url) as supervisor:
        wait_until(lambda: "chore failed chore=days" in supervisor.said)
        assert "2020-01-01 cannot be dropped" in supervisor.said
        assert "other objects depend on it" in supervisor.said
        await finished(connection, *await insert(connection, "echo", 3))
        days = await connection.fetch("select day from pushq.days where day < '2021-01-01' order by day")
        assert [row["day"] for row in days] == [viewed, newest]
        assert supervisor.stop() == 0


async def test_a_day_that_cannot_be_emptied_keeps_no_other_from_it(database_url: str, connection: Connection) -> None:
    for day in (date(2020, 1, 1), date(2020, 1, 2)):
        await make_day(connection, day)
    await connection.execute(
        "create function public.say_no() returns trigger language plpgsql as $$ begin raise exception 'no'; end $$;"
        "create trigger say_no before truncate on pushq.jobs_2020_01_01 execute function public.say_no()"
    )
    session = Session(database_url, "test")
    swept = await Sweeper(Store(session), retention=1).sweep()
    await session.close()

    assert (swept.retired, swept.dropped) == (("2020-01-02",), ("2020-01-02",))
    assert swept.troubles == ("the day 2020-01-01 cannot be emptied: no (P0001).",)


async def _is_declared_dead(sweeper: Sweeper) -> bool:
    return (await sweeper.sweep()).requeued > 0


async def test_of_a_dead_supervisor_s_jobs_all_are_charged_once_but_the_one_that_a_trigger_keeps(
    database_url: str, connection: Connection
) -> None:
    ids = await insert(connection, "echo", 2500)
    await connection.execute("update pushq.jobs set correlation_id = 'forbidden' where id = $1", ids[700])
    await die_with_them(connection)
    await connection.execute(FORBID.format(when="update"))
    session = Session(database_url, "test")
    sweeper = Sweeper(Store(session), retention=604800)
    await sweeper.sweep()
    await eventually(partial(_is_declared_dead, sweeper))
    counts = await connection.fetch("select status, crashes, count(*) from pushq.jobs group by 1, 2 order by 1")
    await connection.execute("drop trigger forbid on pushq.jobs_unfinished")
    await sweeper.sweep()
    await session.close()

    assert [tuple(row) for row in counts] == [("queued", 1, 2499), ("running", 0, 1)]
    assert await connection.fetchval("select count(*) from pushq.jobs where status = 'queued' and crashes = 1") == 2500
