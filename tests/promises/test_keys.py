"""One call inserts a job, or says which job stands in its way: for a key, for a time, for many jobs at once."""

from __future__ import annotations

import asyncio
import json
import random
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeAlias
from uuid import UUID

import asyncpg
import pytest

from pushq import Enqueued, NewJob, Queue
from tests.support.commands import invoke
from tests.support.jobs import Connection, count, finished, insert, row_of
from tests.support.supervisors import supervising

if TYPE_CHECKING:
    Pool: TypeAlias = asyncpg.Pool[asyncpg.Record]

RUNNING = "status = 'running', attempt = 1, supervisor = 's', pool = 1, token = gen_random_uuid(), started_at = now()"
LATER = datetime(2100, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
WAYS: tuple[dict[str, Any], ...] = ({}, {"standing": "replace"}, {"key_window": HOUR})


async def enqueue(connection: Connection | Pool, task: str = "echo", /, **given: Any) -> tuple[UUID, bool]:
    """Calls the function by names, as a client in any language does."""
    names = "".join(f", {name} => ${number}" for number, name in enumerate(given, 2))
    row = await connection.fetchrow(f"select * from pushq.enqueue($1{names})", task, *given.values())
    assert row
    return row["id"], row["inserted"]


async def age(connection: Connection, by: str) -> None:
    """Moves the windows into the past."""
    await connection.execute(f"update pushq.unique_windows set until = until - interval '{by}'")


async def cancel(connection: Connection, job: UUID) -> None:
    assert await connection.fetchval("select pushq.cancel($1)", job) == "cancelled"


# An unfinished job --------------------------------------------------------------------------------------------------


async def test_a_job_without_a_key_is_always_inserted(connection: Connection) -> None:
    jobs = [await enqueue(connection) for _ in range(3)]

    assert [inserted for _, inserted in jobs] == [True] * 3
    assert len({job for job, _ in jobs}) == 3


async def test_every_column_arrives_and_a_null_is_the_default(connection: Connection) -> None:
    given = {
        "payload": '{"n": 12345678901234567890123}',
        "queue": "slow",
        "priority": -3,
        "run_at": LATER,
        "max_attempts": 2,
        "timeout": timedelta(minutes=5),
        "unique_key": "k",
        "tenant_id": "acme",
        "correlation_id": "c",
        "waiters": ["pushq_a"],
    }
    row = await row_of(connection, (await enqueue(connection, **given))[0])
    assert {name: row[name] for name in given} == given

    row = await row_of(connection, (await enqueue(connection, **dict.fromkeys([*given, "standing", "key_window"])))[0])
    assert (row["payload"], row["queue"], row["priority"], row["run_at"]) == ("{}", "default", 0, row["enqueued_at"])


async def test_keep_leaves_an_unfinished_job_as_it_is_and_returns_its_id(connection: Connection) -> None:
    job, inserted = await enqueue(connection, unique_key="k", payload='{"n": 1}')
    assert inserted
    for status in ("queued", "running"):
        before = await row_of(connection, job)
        assert before["status"] == status
        assert await enqueue(connection, "other", unique_key="k", payload='{"n": 2}', priority=9) == (job, False)
        assert await row_of(connection, job) == before
        await connection.execute(f"update pushq.jobs set {RUNNING} where id = $1", job)

    await cancel(connection, job)
    new, inserted = await enqueue(connection, unique_key="k")
    assert inserted
    assert new != job


async def test_replace_gives_a_queued_job_what_the_call_says(connection: Connection) -> None:
    job, _ = await enqueue(connection, unique_key="k", payload='{"n": 1}', correlation_id="old", waiters=["pushq_a"])
    await connection.execute("""update pushq.jobs set failures = 2, attempt = 2, progress = '{"done": 1}'""")
    new = {
        "payload": '{"n": 2}',
        "queue": "mail",
        "priority": 7,
        "run_at": LATER,
        "max_attempts": 9,
        "timeout": timedelta(minutes=1),
        "correlation_id": "new",
    }
    assert await enqueue(connection, "other", unique_key="k", standing="replace", **new) == (job, False)

    row = await row_of(connection, job)
    assert {name: row[name] for name in new} == new
    assert (row["task"], row["failures"], row["attempt"], row["progress"], row["waiters"]) == (
        "other", 2, 2, None, ["pushq_a"],
    )  # fmt: skip
    assert await count(connection) == 1


async def test_replace_leaves_a_running_job_as_it_is_and_returns_its_id(connection: Connection) -> None:
    job, _ = await enqueue(connection, unique_key="k")
    await connection.execute(f"update pushq.jobs set {RUNNING}")
    before = await row_of(connection, job)

    assert await enqueue(connection, unique_key="k", standing="replace", payload='{"n": 2}') == (job, False)
    assert await row_of(connection, job) == before


async def test_replace_refuses_what_an_insert_refuses(connection: Connection) -> None:
    job, _ = await enqueue(connection, unique_key="k")
    for bad in ({"payload": "[]"}, {"queue": ""}, {"max_attempts": 0}):
        with pytest.raises(asyncpg.CheckViolationError):
            await enqueue(connection, unique_key="k", standing="replace", **bad)
    assert (await row_of(connection, job))["payload"] == "{}"


async def test_without_a_start_replace_makes_a_job_due_and_a_due_job_keeps_its_place(connection: Connection) -> None:
    job, _ = await enqueue(connection, unique_key="k", run_at=LATER)
    starts = []
    for _ in range(2):
        await enqueue(connection, unique_key="k", standing="replace")
        starts.append((await row_of(connection, job))["run_at"])

    assert starts[0] == starts[1] < LATER


async def test_a_replaced_job_that_may_start_sooner_wakes_an_idle_pool(
    connection: Connection, database_url: str
) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        job, _ = await enqueue(connection, unique_key="k", run_at=LATER)
        await enqueue(connection, unique_key="k", standing="replace", payload='{"n": 2}')
        (row,) = await finished(connection, job, within=5)
    assert json.loads(row["payload"]) == {"n": 2}


async def test_calls_that_put_a_job_off_run_it_once_they_end_or_at_the_longest_delay(connection: Connection) -> None:
    soon = "run_at => now() + interval '10 s', unique_key => 'k', standing => 'replace'"
    job = await connection.fetchval(f"select id from pushq.enqueue('echo', {soon})")
    dues = []
    for _ in range(3):
        await connection.execute("update pushq.jobs set enqueued_at = enqueued_at - interval '25 s'")
        await connection.execute(f"select pushq.enqueue('echo', {soon}, longest_delay => '1 minute')")
        row = await row_of(connection, job)
        dues.append((row["run_at"] - row["enqueued_at"]).total_seconds())

    assert [round(due) for due in dues] == [35, 60, 60]


async def test_a_queue_that_keeps_all_events_notes_the_replacement(connection: Connection) -> None:
    await connection.execute("select pushq.keep_all_events('default')")
    job, _ = await enqueue(connection, unique_key="k", tenant_id="acme")
    await enqueue(connection, unique_key="k", tenant_id="acme", standing="replace")
    await enqueue(connection, unique_key="k", tenant_id="acme")

    (event,) = await connection.fetch("select * from pushq.job_events")
    assert (event["job_id"], event["tenant_id"], event["kind"], event["became"]) == (job, "acme", "edited", "queued")
    await connection.execute("select pushq.keep_all_events('default', false)")


# Windows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tenant", [None, "acme"])
async def test_within_a_window_no_second_job_is_inserted_even_if_the_first_is_finished(
    connection: Connection, tenant: str | None
) -> None:
    key = {"unique_key": "k", "tenant_id": tenant, "key_window": HOUR}
    job, inserted = await enqueue(connection, **key)
    assert inserted
    assert await enqueue(connection, **key) == (job, False)
    await cancel(connection, job)
    assert await enqueue(connection, **key) == (job, False)
    assert await enqueue(connection, **key | {"tenant_id": "other"}) != (job, False)
    await age(connection, "1 hour")

    second, inserted = await enqueue(connection, **key)
    assert inserted
    assert await enqueue(connection, **key) == (second, False)


async def test_a_job_that_stood_before_counts_from_its_own_enqueue(connection: Connection) -> None:
    (job,) = await insert(connection, "echo", unique_key="k")
    for aged, stands in (("50 minutes", True), ("20 minutes", False)):
        await connection.execute(f"update pushq.jobs set enqueued_at = enqueued_at - interval '{aged}'")
        await connection.execute("delete from pushq.unique_windows")
        assert await enqueue(connection, unique_key="k", key_window=HOUR) == (job, False)
        assert await connection.fetchval("select until > now() from pushq.unique_windows") is stands
    await cancel(connection, job)

    assert (await enqueue(connection, unique_key="k", key_window=HOUR))[1]


async def test_replace_within_a_window_changes_the_job_while_it_is_queued(connection: Connection) -> None:
    key = {"unique_key": "k", "key_window": HOUR, "standing": "replace"}
    job, _ = await enqueue(connection, **key)
    assert await enqueue(connection, payload='{"n": 2}', **key) == (job, False)
    assert (await row_of(connection, job))["payload"] == '{"n": 2}'
    await cancel(connection, job)
    assert await enqueue(connection, payload='{"n": 3}', **key) == (job, False)
    assert (await row_of(connection, job))["payload"] == '{"n": 2}'


async def test_a_window_of_a_transaction_that_rolls_back_never_was(connection: Connection) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await enqueue(connection, unique_key="k", key_window=HOUR)
    await transaction.rollback()

    assert (await enqueue(connection, unique_key="k", key_window=HOUR))[1]


async def test_of_eight_at_once_one_inserts_and_all_get_its_id(database_url: str) -> None:
    async with asyncpg.create_pool(database_url, min_size=8, max_size=8) as pool:
        for key in range(10):
            for way in WAYS:
                unique = {"unique_key": f"{key} {way}"}
                done = await asyncio.gather(*(enqueue(pool, **unique, **way) for _ in range(8)))
                assert sum(inserted for _, inserted in done) == 1
                assert len({job for job, _ in done}) == 1


async def test_closed_windows_go_with_a_sweep(connection: Connection, database_url: str) -> None:
    await enqueue(connection, unique_key="closed", key_window=HOUR)
    await age(connection, "1 hour")
    await enqueue(connection, unique_key="open", key_window=HOUR)
    assert invoke("sweep", "--lease", "0.3", "--heartbeat-interval", "0.1", url=database_url).exit_code == 0

    assert [row["unique_key"] for row in await connection.fetch("select * from pushq.unique_windows")] == ["open"]


async def test_the_windows_of_a_tenant_that_is_deleted_go_with_it(connection: Connection) -> None:
    for tenant in ("acme", "globex"):
        await enqueue(connection, unique_key="k", tenant_id=tenant, key_window=HOUR)
    assert await connection.fetchval("select pushq.delete_tenant('acme')") == 1
    assert await connection.fetchval("select pushq.delete_tenant('acme')") == 0

    assert await connection.fetchval("select tenant_id from pushq.unique_windows") == "globex"


# Races --------------------------------------------------------------------------------------------------------------

OTHERS = (
    "select pushq.cancel(id) from pushq.jobs where finished_on = 'infinity' order by random() limit 1",
    "select pushq.retry(id) from pushq.jobs where finished_on < 'infinity' order by random() limit 1",
    "delete from pushq.jobs where id = (select id from pushq.jobs order by random() limit 1)",
    "select pushq.finish(id, token, 'succeeded') from pushq.take_next('default', 'guest')",
    "select pushq.finish(id, token, 'released') from pushq.take_next('default', 'guest')",
    "insert into pushq.jobs (task, unique_key) values ('plain', 'a'), ('plain', 'b') on conflict do nothing",
)


MOST = """
    select coalesce(max(jobs), 0)
    from (select count(*) as jobs from pushq.jobs where finished_on = 'infinity' group by unique_key) as of_key
"""


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
async def test_whatever_others_do_at_the_same_time_a_call_ends_with_a_job(
    database_url: str, connection: Connection, isolation: str
) -> None:
    """Never with 23505. The other two levels may refuse with 40001, as they may any statement."""
    chance = random.Random(isolation)
    ended = asyncio.Event()

    refused = () if isolation == "read committed" else (asyncpg.SerializationError,)

    async def call() -> list[tuple[UUID, bool]]:
        done = []
        for _ in range(100):
            given = {"unique_key": chance.choice("ab"), "standing": chance.choice(["keep", "replace"])}
            window = chance.choice([None, None, timedelta(milliseconds=5)])
            with suppress(*refused):
                done.append(await enqueue(callers, key_window=window, **given))
        return done

    async def disturb() -> None:
        while not ended.is_set():
            with suppress(*refused):
                await others.execute(chance.choice(OTHERS))

    async def watch() -> None:
        while not ended.is_set():
            assert await connection.fetchval(MOST) <= 1

    async with (
        asyncpg.create_pool(
            database_url, min_size=4, max_size=4, server_settings={"default_transaction_isolation": isolation}
        ) as callers,
        asyncpg.create_pool(database_url, min_size=3, max_size=3) as others,
        asyncio.TaskGroup() as beside,
    ):
        for task in (watch(), disturb(), disturb(), disturb()):
            beside.create_task(task)
        done = [one for each in await asyncio.gather(*(call() for _ in range(4))) for one in each]
        ended.set()
    assert all(job for job, _ in done)
    assert {inserted for _, inserted in done} == {True, False}
    assert len({job for job, inserted in done if inserted}) == sum(inserted for _, inserted in done)


# Many at once -------------------------------------------------------------------------------------------------------


async def test_a_batch_returns_a_row_for_each_job_in_the_order_given(connection: Connection) -> None:
    (stands,) = await insert(connection, "echo", unique_key="z")
    jobs = [{"task": "echo", "unique_key": key, "payload": {"n": n}} for n, key in enumerate(["z", "a", None, "a"])]
    rows = await connection.fetch(
        "select * from pushq.enqueue_many($1, standing => 'replace') order by place", json.dumps(jobs)
    )
    assert [(row["place"], row["inserted"]) for row in rows] == [(1, False), (2, True), (3, True), (4, False)]
    assert rows[0]["id"] == stands
    assert rows[1]["id"] == rows[3]["id"]
    payloads = {row["id"]: json.loads(row["payload"]) for row in await connection.fetch("select * from pushq.jobs")}
    assert [payloads[row["id"]]["n"] for row in rows] == [0, 3, 2, 3]


async def test_thousands_go_with_one_statement_and_again_with_none_inserted(connection: Connection) -> None:
    jobs = [NewJob("echo", {"n": n}, unique_key=f"k{n}") for n in range(2_000)]
    first = await Queue().enqueue_many(jobs, connection=connection)
    again = await Queue().enqueue_many(reversed(jobs), connection=connection, window=HOUR)

    assert [done.inserted for done in first] == [True] * 2_000
    assert again == [Enqueued(done.id, False) for done in reversed(first)]
    assert await Queue().enqueue_many([], connection=connection) == []


async def test_batches_that_share_keys_in_any_order_never_deadlock(database_url: str) -> None:
    chance = random.Random(1)

    async def work(ways: list[dict[str, Any]]) -> None:
        mine = await asyncpg.connect(database_url)
        for _ in range(15):
            jobs = [NewJob("echo", unique_key=f"k{n}") for n in chance.sample(range(40), 30)]
            for way in ways:
                await Queue().enqueue_many(jobs, connection=mine, **way)
            await Queue().insert_many(jobs, connection=mine)
            await mine.execute(
                "with ending as materialized ("
                "select id from pushq.jobs_unfinished order by id limit 20 for update skip locked) "
                "delete from pushq.jobs_unfinished as job using ending where job.id = ending.id"
            )
        await mine.close()

    ways: list[dict[str, Any]] = [{}, {"standing": "replace"}, {"window": timedelta(milliseconds=10)}]
    await asyncio.gather(*(work(ways[n % 3 :] + ways[: n % 3]) for n in range(5)))


# Bad input ----------------------------------------------------------------------------------------------------------

KEY = "'echo', unique_key => 'k'"


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ("enqueue(null)", "name the task, not null"),
        ("enqueue('echo', priority => 32768)", "a priority is a number from -32768 to 32767, not 32768"),
        ("enqueue('echo', key_window => '1 hour')", "a key_window .01:00:00. is a key's; give the unique_key"),
        (f"enqueue({KEY}, key_window => '0')", "a key_window is over 0 and at most a year, .*, not 00:00:00"),
        (f"enqueue({KEY}, key_window => '-1 s')", "a key_window is over 0 and at most a year, .*, not -00:00:01"),
        (f"enqueue({KEY}, key_window => '367 days')", "a key_window is over 0 and at most a year, .*, not 367 days"),
        (f"enqueue({KEY}, standing => 'swap')", "standing is keep or replace, not 'swap'"),
        (f"enqueue({KEY}, longest_delay => '1 s')", "give standing => 'replace', or no longest_delay"),
        (f"enqueue({KEY}, standing => 'replace', longest_delay => '0')", "a longest_delay is over 0"),
        ("enqueue_many(null)", "jobs is an array, .*, not null"),
        ("enqueue_many('{}')", "jobs is an array, .*, not a JSON object"),
        ('enqueue_many(\'[{"task": "echo"}, 7]\')', "job 2 is a JSON number, not an object"),
        ('enqueue_many(\'[{"task": "echo"}, {}]\')', "job 2 has no task; name it"),
        ('enqueue_many(\'[{"task": "a", "key": 1}]\')', "job 1 names key; name only task, payload, queue, "),
        ("enqueue_many('[]', standing => 'swap')", "standing is keep or replace, not 'swap'"),
        (
            "enqueue_many('[{\"task\": \"a\"}]', key_window => '1 s')",
            "job 1 has no unique_key, and a key_window .00:00:01. is a key's; give the unique_key",
        ),
    ],
)
async def test_bad_input_is_refused_in_a_sentence_that_names_the_value(
    connection: Connection, call: str, says: str
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError, match=rf"^pushq\.enqueue(_many)?: .*{says}"):
        await connection.execute(f"select pushq.{call}")
    assert await count(connection) == 0


@pytest.mark.parametrize("window", [None, HOUR])
async def test_a_key_breaks_the_rules_of_keys_with_and_without_a_window(
    connection: Connection, window: timedelta | None
) -> None:
    for key in ("", "x" * 201, "x" * 100_000):
        with pytest.raises(asyncpg.CheckViolationError, match="jobs_unique_key_has_1_to_200_characters"):
            await enqueue(connection, unique_key=key, key_window=window)


async def test_a_trigger_of_the_app_s_own_that_keeps_a_job_out_is_named(connection: Connection) -> None:
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute(
        "create function pg_temp.nothing() returns trigger language plpgsql as $$ begin return null; end $$;"
        "create trigger nothing before insert on pushq.jobs_unfinished for each row execute function pg_temp.nothing()"
    )
    for key in (None, "k"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="a trigger or a unique index of your own"):
            async with connection.transaction():
                await enqueue(connection, unique_key=key)
    await transaction.rollback()


async def test_python_refuses_a_window_in_words_of_python_before_the_database_would(connection: Connection) -> None:
    keyed = NewJob("echo", unique_key="k")
    for no_span in (5, "1 hour", True):
        for name in ("window", "longest_delay"):
            with pytest.raises(TypeError, match=rf"{name} is a timedelta: timedelta\(hours=1\), not of type "):
                await Queue().enqueue(keyed, connection=connection, **{name: no_span})  # type: ignore[arg-type]
    for given, says in (
        ({"window": timedelta(0)}, "window is over 0 and at most a year: timedelta.hours=1., not .*timedelta.0."),
        ({"window": timedelta(days=367)}, "window is over 0 and at most a year"),
        ({"longest_delay": -HOUR, "standing": "replace"}, "longest_delay is over 0 and at most a year"),
        ({"longest_delay": HOUR}, "give standing='replace', or no longest_delay"),
        ({"standing": "both"}, "standing is 'keep' or 'replace', not 'both'"),
    ):
        with pytest.raises(ValueError, match=rf"^Queue\.enqueue: .*{says}"):
            await Queue().enqueue(keyed, connection=connection, **given)
    with pytest.raises(ValueError, match="window is a key's, and this 'echo' job has no unique_key; give one"):
        await Queue().enqueue_many([keyed, NewJob("echo")], connection=connection, window=HOUR)
    assert await count(connection) == 0


async def test_python_refuses_a_job_with_an_id_of_its_own_and_what_is_no_job(connection: Connection) -> None:
    with pytest.raises(ValueError, match=r"gives each job an id, and this 'echo' job has one: use Queue\.insert"):
        await Queue().enqueue(NewJob("echo", id=UUID(int=1)), connection=connection)
    with pytest.raises(TypeError, match=r"Queue\.enqueue takes a job, not a function"):
        await Queue().enqueue(enqueue, connection=connection)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="was given one: use enqueue, or put the job in a list"):
        await Queue().enqueue_many(NewJob("echo"), connection=connection)  # type: ignore[arg-type]


# The command --------------------------------------------------------------------------------------------------------


async def test_the_command_prints_the_id_of_the_job_that_stands(connection: Connection, database_url: str) -> None:
    arguments = ("enqueue", "echo", "--unique-key", "k")
    first = invoke(*arguments, "--standing", "keep", url=database_url)
    job = UUID(first.stdout.strip())
    for way in (["--standing", "keep"], ["--standing", "replace", "--payload", '{"n": 2}'], ["--window", "60"]):
        ended = invoke(*arguments, *way, url=database_url)
        assert (ended.exit_code, ended.stdout) == (0, f"{job}\n")
        assert ended.stderr == f"pushq: Job {job} has the unique key 'k'; no job was inserted.\n"
    assert (await row_of(connection, job))["payload"] == '{"n": 2}'
    await cancel(connection, job)
    ended = invoke(*arguments, "--window", "60", "--json", url=database_url)
    assert json.loads(ended.stdout) == {"id": str(job), "inserted": False}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--standing", "keep"], "--standing and --window are about a key; give --unique-key."),
        (["--window", "5"], "--standing and --window are about a key; give --unique-key."),
        (["--unique-key", "k", "--window", "0"], "0.0 is not in the range"),
        (["--unique-key", "k", "--window", "nan"], "nan is not a number of seconds."),
        (["--unique-key", "k", "--standing", "swap"], "'swap' is not one of 'keep', 'replace'."),
    ],
)
def test_the_command_refuses_bad_input_in_a_sentence(database_url: str, arguments: list[str], says: str) -> None:
    ended = invoke("enqueue", "echo", *arguments, url=database_url)
    assert ended.exit_code
    assert says in ended.stderr
