"""Rules of names: what is refused, which jobs get needs by them, and what sweepers do for them."""

from __future__ import annotations

import json
from typing import Any

import asyncpg
import pytest

from pushq.database.session import Session
from pushq.sweeper import Sweeper
from pushq.sweeper.store import Store
from tests.support.jobs import Connection, count, finished, insert, row_of
from tests.support.supervisors import supervising
from tests.support.waiting import eventually


async def needs(connection: Connection) -> list[Any]:
    rows = await connection.fetch("select needs from pushq.jobs order by id")
    return [json.loads(row["needs"] or "null") for row in rows]


# What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ("null, 1", "name a resource or a kind of jobs"),
        ("'', 1", "name a resource or a kind of jobs"),
        ("repeat('x', 211), 1", "a name has at most 210 characters, not 211"),
        ("'queue:' || repeat('x', 201), 1", "the name of a queue has at most 200 characters, not 201"),
        ("'queue:*', 1", "name a queue; no limit is for all queues"),
        ("'key:', 1", "say which key, after the colon; * for all"),
        ("'model:*', 1", "a rule for all names of a kind is for key:*, tenant:*, task:* or affinity:*; name each"),
        ("'gpu', -1", "a capacity is 0 or more, not -1; 0 lets no job begin"),
        (
            "'gpu', rate => 0",
            "a rate is 0.0000001 to 1000000 a second, not 0; to let no job begin, set the capacity to 0",
        ),
        (
            "'gpu', rate => 'nan'",
            "a rate is 0.0000001 to 1000000 a second, not NaN; to let no job begin, set the capacity to 0",
        ),
        ("'gpu', rate => 0, burst => 0", "a rate is 0.0000001 to 1000000 a second, not 0"),
        ("'gpu', rate => 1, burst => 0", "a burst is 1 to 1000000, not 0"),
        ("'gpu', 1, burst => 5", "a burst of 5 needs a rate"),
    ],
)
async def test_a_rule_that_cannot_be_is_refused_in_a_sentence(
    connection: Connection, arguments: str, sentence: str
) -> None:
    with pytest.raises(asyncpg.InvalidParameterValueError) as refused:
        await connection.execute(f"select pushq.limit({arguments})")

    assert sentence in str(refused.value)
    assert not await connection.fetchval("select count(*) from pushq.resources where name !~ ':\\*$'")


@pytest.mark.parametrize(
    ("row", "constraint"),
    [
        ("('gpu', 1, 0)", "resources_rate_is_1e_7_to_1e6"),
        ("('gpu', -1, null)", "resources_capacity_is_not_negative"),
        ("(repeat('x', 211), 1, null)", "resources_name_has_1_to_210_characters"),
        ("('queue:mail', 1, null)", "resources_queues_are_limited_in_pushq_queues"),
    ],
)
async def test_a_row_by_hand_is_refused_by_a_named_constraint(
    connection: Connection, row: str, constraint: str
) -> None:
    with pytest.raises(asyncpg.CheckViolationError) as refused:
        await connection.execute(f"insert into pushq.resources (name, capacity, rate) values {row}")

    assert refused.value.constraint_name == constraint


async def test_two_resources_are_not_renamed_into_each_other_at_once_and_nothing_is_lost(
    connection: Connection,
) -> None:
    await connection.execute("select pushq.limit('gpu', 2), pushq.limit('cpu', 8)")
    with pytest.raises(asyncpg.UniqueViolationError) as refused:
        await connection.execute(
            "update pushq.resources set name = case name when 'gpu' then 'cpu' else 'gpu' end where name ~ '^.pu$'"
        )

    assert refused.value.constraint_name == "resources_pkey"
    rows = await connection.fetch("select name, capacity from pushq.resources where name in ('gpu', 'cpu') order by 1")
    assert [tuple(row) for row in rows] == [("cpu", 8), ("gpu", 2)]


async def test_a_resource_that_is_deleted_while_held_stays_held_with_capacity_1(connection: Connection) -> None:
    await connection.execute("select pushq.limit('gpu', 2)")
    [first, second, third] = await insert(connection, "echo", 3, needs=["gpu"])
    token = await connection.fetchval("select pushq.take($1, 'bert')", first)
    await connection.fetchval("select pushq.take($1, 'bert')", second)
    await connection.execute("delete from pushq.resources where name = 'gpu'")

    assert await connection.fetchval("select pushq.take($1, 'bert')", third) is None
    assert await connection.fetchval("select pushq.finish($1, $2, 'succeeded')", first, token)
    assert await connection.fetchval("select pushq.take($1, 'bert')", third) is None  # the second holds the one unit
    assert await connection.fetchval("select units from pushq.held()") == 1


# Which jobs get needs by rules ----------------------------------------------------------------------------------


async def stamp(connection: Connection, most: int = 2000) -> int:
    after: Any = None
    stamped = 0
    while True:
        step = await connection.fetchrow("select * from pushq.stamp($1, $2)", after, most)
        assert step is not None
        assert step["looked"] <= most
        after, stamped = step["last"], stamped + int(step["stamped"])
        if after is None:
            return stamped


async def test_jobs_that_are_there_get_the_needs_of_rules_in_steps_running_ones_too(connection: Connection) -> None:
    jobs = await insert(connection, "echo", 3) + await insert(connection, "mail", 2, queue="other", tenant_id="acme")
    await connection.fetchval("select pushq.take($1, 'bert')", jobs[0])
    await connection.execute(
        "select pushq.limit('queue:default', 2), pushq.limit('task:*', 9), pushq.limit('tenant:acme', 1)"
    )
    assert await stamp(connection, most=2) == 5

    default, other = {"queue:default": 1, "task:echo": 1}, {"task:mail": 1, "tenant:acme": 1}
    assert await needs(connection) == [default] * 3 + [other] * 2
    assert await stamp(connection) == 0
    assert {row["name"]: row["units"] for row in await connection.fetch("select * from pushq.held()")} == default


async def test_a_job_whose_needs_a_lowered_capacity_no_longer_meets_does_not_stop_the_others(
    connection: Connection,
) -> None:
    await connection.execute("select pushq.limit('gpu', 4)")
    await insert(connection, "echo", needs={"gpu": 4})
    await insert(connection, "echo")
    await connection.execute("select pushq.limit('gpu', 2), pushq.limit('queue:default', 2)")

    assert await stamp(connection) == 2
    assert await needs(connection) == [{"gpu": 4, "queue:default": 1}, {"queue:default": 1}]


# Sweepers -------------------------------------------------------------------------------------------------------


class Sweeps:
    """A sweeper, and the statements that it has run."""

    def __init__(self, session: Session) -> None:
        self.sweeper = Sweeper(Store(session), retention=86_400)

    async def sweep(self) -> int:
        return (await self.sweeper.sweep()).stamped


@pytest.fixture
async def sweeps(database_url: str) -> Any:
    session = Session(database_url, "test")
    yield Sweeps(session)
    await session.close()


async def test_a_job_of_a_transaction_that_was_open_when_the_limit_was_set_gets_the_limit_by_a_sweep(
    connection: Connection, database_url: str, sweeps: Sweeps
) -> None:
    other = await asyncpg.connect(database_url)
    async with other.transaction(isolation="repeatable_read"):
        await other.fetch("select from pushq.jobs")
        await connection.execute("select pushq.limit('queue:default', 1)")
        assert await sweeps.sweep() == 0
        [job] = await insert(other, "echo")
    await other.close()
    assert (await row_of(connection, job))["needs"] is None

    sweeps.sweeper._days_are_due_at = 0.0  # five minutes later
    assert await sweeps.sweep() == 1
    assert await needs(connection) == [{"queue:default": 1}]


async def test_a_change_of_rules_makes_the_next_sweep_look_and_without_rules_none_looks(
    connection: Connection, sweeps: Sweeps
) -> None:
    looked: list[object] = []
    stamp_of_store = sweeps.sweeper._store.stamp

    async def stamp(*given: Any) -> Any:
        looked.append(given)
        return await stamp_of_store(*given)

    sweeps.sweeper._store.stamp = stamp  # type: ignore[method-assign, assignment]
    await insert(connection, "echo", 3)
    await sweeps.sweep()
    await connection.execute("select pushq.limit('gpu', 3)")  # jobs name it themselves
    await sweeps.sweep()
    assert not looked
    for limit, stamped in (("queue:default", 3), ("task:*", 3), ("task:echo", 0)):
        await connection.execute("select pushq.limit($1, 3)", limit)
        assert await sweeps.sweep() == stamped
    assert len(looked) == 3
    await sweeps.sweep()
    assert len(looked) == 3


async def test_inserts_look_for_no_rule_after_the_last_one_is_gone_and_a_sweep(
    connection: Connection, database_url: str, sweeps: Sweeps
) -> None:
    async def rules() -> int:
        sweeps.sweeper._days_are_due_at = 0.0
        await sweeps.sweep()
        return int(await connection.fetchval("select pg_sequence_last_value('pushq.needs_stamped')"))

    await connection.execute("select pushq.limit('queue:default', 1), pushq.limit('tenant:*', 1)")
    await connection.execute("select pushq.unlimit('queue:default')")
    assert await rules() > 0
    await connection.execute("select pushq.limit('tenant:*', null, null)")
    assert await rules() == 0

    other = await asyncpg.connect(database_url)
    await connection.execute("select pushq.limit('task:echo', 1)")
    await connection.execute("select pushq.unlimit('task:echo')")
    transaction = other.transaction()
    await transaction.start()
    await other.execute("select pushq.limit('task:echo', 1)")
    assert await rules() > 0  # a rule that is not committed yet
    await transaction.commit()
    assert await rules() > 0
    await other.close()
    await connection.execute("select pushq.unlimit('task:echo')")
    assert await rules() == 0


async def test_a_rate_whose_burst_is_whole_again_is_forgotten(connection: Connection, sweeps: Sweeps) -> None:
    await connection.execute(
        "insert into pushq.tokens values ('past', now() - interval '1 s'), ('future', now() + interval '1 hour')"
    )
    await sweeps.sweep()
    assert [row["name"] for row in await connection.fetch("select name from pushq.tokens")] == ["future"]


# Units that come back -------------------------------------------------------------------------------------------


async def test_units_of_a_tenant_that_is_deleted_are_free_for_others_without_any_polling(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, POLL_INTERVAL="0"):
        await insert(connection, "sleep", needs=["gpu"], tenant_id="acme", payload={"seconds": 60})
        await eventually(lambda: connection.fetchval("select count(*) = 1 from pushq.held()"))
        [job] = await insert(connection, "echo", needs=["gpu"], tenant_id="globex")
        assert await count(connection, "status = 'queued'") == 1
        await connection.execute("select pushq.delete_tenant('acme')")
        await finished(connection, job, within=5)


async def test_units_of_a_running_job_that_is_deleted_by_hand_are_free_at_the_next_poll(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, POLL_INTERVAL="0.5"):
        [gone] = await insert(connection, "sleep", needs=["gpu"], payload={"seconds": 60})
        await eventually(lambda: connection.fetchval("select count(*) = 1 from pushq.held()"))
        [job] = await insert(connection, "echo", needs=["gpu"])
        await connection.execute("delete from pushq.jobs where id = $1", gone)
        await finished(connection, job, within=5)


# Suspects -------------------------------------------------------------------------------------------------------


async def test_a_suspect_whose_units_are_held_starts_no_process_and_stops_no_other_suspect(
    database_url: str, connection: Connection
) -> None:
    holder, *suspects = await insert(connection, "echo", 31, needs=["gpu"])
    await connection.fetchval("select pushq.take($1, 'bert')", holder)
    [plain] = await insert(connection, "echo")
    await connection.execute("update pushq.jobs set crashes = 2 where status = 'queued'")
    with supervising(database_url, POLL_INTERVAL="0", SWEEP_INTERVAL="0.2") as supervisor:
        await finished(connection, plain)
        started = supervisor.said.count("solo=True")
        await connection.execute("select pg_sleep(2)")
        assert supervisor.said.count("solo=True") == started
        await connection.execute("delete from pushq.jobs where id = $1", holder)
        await finished(connection, *suspects[:2])


# Metrics --------------------------------------------------------------------------------------------------------


async def test_metrics_show_what_is_held_of_each_name_with_a_rule(database_url: str, connection: Connection) -> None:
    await connection.execute("select pushq.limit('gpu', 4), pushq.limit('key:*', 2), pushq.limit('api', rate => 5)")
    await connection.execute("select pushq.limit('queue:default', 9)")
    for job in await insert(connection, "sleep", 2, needs={"gpu": 2, "unruled": 1}, queue="other"):
        await connection.execute("select pushq.take($1, 'bert')", job)
    with supervising(database_url) as supervisor:
        shown = supervisor.get("/metrics")[1]

    limits = dict(line.rsplit(" ", 1) for line in shown.splitlines() if line.startswith("pushq_limit_"))
    assert limits == {
        'pushq_limit_capacity{name="gpu"}': "4.0",
        'pushq_limit_capacity{name="queue:default"}': "9.0",
        'pushq_limit_held{name="api"}': "0.0",
        'pushq_limit_held{name="gpu"}': "2.0",
        'pushq_limit_held{name="queue:default"}': "0.0",
    }
