"""Fair queues: each share has its turn, whatever the others have queued."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from uuid import uuid4

from pushq.database.session import Session
from pushq.pool.shares import Shares
from pushq.pool.store import Claimant, Terms
from tests.support.jobs import Connection, insert
from tests.support.store import Store

CLAIMANT = Claimant("anna", 1, ("default",), ("echo",))


class Pool:
    """Claims as a pool does, job by job or by batches."""

    def __init__(self, url: str, queues: tuple[str, ...] = ("default",)) -> None:
        self._session = Session(url, "test")
        self._claimant = replace(CLAIMANT, queues=queues)
        self._shares = Shares(queues)

    async def claim(self, most: int, most_holding: int = 100) -> list[str]:
        """Returns the tenants of the claimed jobs."""
        terms = Terms(most_holding, True, None, self._shares.after, self._shares.taken)
        jobs = await Store(self._session).claim(self._claimant, uuid4(), most, terms=terms)
        self._shares.note([job for job in jobs if job.share])
        return [job.tenant_id or "" for job in jobs]

    async def close(self) -> None:
        await self._session.close()


async def fair(connection: Connection, by: str = "tenant") -> None:
    await connection.execute("select pushq.be_fair('default', $1)", by)
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until, tasks, queues, workers) "
        "values ('anna', 'here', 1, '1 hour', now() + interval '1 hour', '{echo}', '{default}', 10)"
    )


async def test_a_tenant_with_many_jobs_delays_another_s_single_job_by_one_round(
    database_url: str, connection: Connection
) -> None:
    await fair(connection)
    await insert(connection, "echo", 300, tenant_id="flood")
    pool = Pool(database_url)
    assert Counter(await pool.claim(100)) == {"flood": 100}
    await insert(connection, "echo", tenant_id="acme")
    await insert(connection, "echo")
    assert Counter(await pool.claim(3)) == {"flood": 1, "acme": 1, "": 1}
    await pool.close()


async def test_a_pool_with_one_worker_goes_round_too(database_url: str, connection: Connection) -> None:
    await fair(connection)
    for tenant in "abc":
        await insert(connection, "echo", 20, tenant_id=tenant)
    pool = Pool(database_url)
    taken = [(await pool.claim(1))[0] for _ in range(30)]
    assert all(len(set(taken[at : at + 3])) == 3 for at in range(28)), taken
    await pool.close()


async def test_a_claim_with_more_room_than_shares_goes_on_where_the_last_ended(
    database_url: str, connection: Connection
) -> None:
    await fair(connection)
    for tenant in "abc":
        await insert(connection, "echo", 100, tenant_id=tenant)
    pool = Pool(database_url)
    counts: Counter[str] = Counter()
    for _ in range(12):
        counts.update(await pool.claim(4))
    assert max(counts.values()) - min(counts.values()) <= 1
    await pool.close()


async def test_a_tenant_of_weight_3_has_three_jobs_a_round(database_url: str, connection: Connection) -> None:
    await fair(connection)
    await connection.execute("insert into pushq.tenants (tenant_id, weight) values ('b', 3)")
    for tenant in "abc":
        await insert(connection, "echo", 200, tenant_id=tenant)
    for most in (1, 2, 4, 7, 50):
        pool, counts = Pool(database_url), Counter[str]()
        while sum(counts.values()) < 50:
            counts.update(await pool.claim(most))
        assert abs(counts["b"] - 3 * counts["a"]) <= 3
        assert abs(counts["a"] - counts["c"]) <= 1
        await pool.close()


async def test_a_share_whose_jobs_lack_a_unit_does_not_hold_up_its_other_jobs_nor_other_shares(
    database_url: str, connection: Connection
) -> None:
    await fair(connection)
    await insert(connection, "echo", 20, tenant_id="acme", needs=["gpu"])
    await insert(connection, "echo", 2, tenant_id="acme")
    await insert(connection, "echo", 2, tenant_id="bert", needs=["gpu"])
    pool = Pool(database_url)
    counts = Counter(await pool.claim(30))
    assert counts.total() == 3  # one of them, of either tenant, holds the unit
    assert counts["acme"] >= 2
    await pool.close()


async def test_of_a_share_the_most_urgent_job_comes_first(database_url: str, connection: Connection) -> None:
    await fair(connection)
    await insert(connection, "echo", 5, tenant_id="acme")
    [urgent] = await insert(connection, "echo", tenant_id="acme", priority=-1)
    pool = Pool(database_url)
    await pool.claim(1)
    assert await connection.fetchval("select id from pushq.jobs where status = 'running'") == urgent
    await pool.close()


async def test_jobs_that_were_there_before_the_queue_was_fair_get_their_shares(
    database_url: str, connection: Connection
) -> None:
    await insert(connection, "echo", 10, tenant_id="acme")
    await fair(connection)
    assert await connection.fetchval("select stamped from pushq.stamp()") == 10
    assert await connection.fetchval("select stamped from pushq.stamp()") == 0
    assert await connection.fetchval("select count(*) from pushq.jobs where share is not null") == 10
    await connection.execute("select pushq.be_fair('default', null)")
    assert await connection.fetchval("select stamped from pushq.stamp()") == 10
    assert await connection.fetchval("select count(*) from pushq.jobs where share is null") == 10
    pool = Pool(database_url)
    assert len(await pool.claim(20)) == 10
    await pool.close()


async def test_many_shares_that_need_more_than_is_free_do_not_hide_one_that_needs_something_else(
    database_url: str, connection: Connection
) -> None:
    await fair(connection)
    await connection.execute("insert into pushq.resources (name, capacity) values ('gpu', 4)")
    [first] = await insert(connection, "echo", tenant_id="first", needs={"gpu": 2})
    assert await connection.fetchval("select pushq.take($1, 'bert')", first)
    for number in range(150):
        await insert(connection, "echo", tenant_id=f"tenant {number}", needs={"gpu": 3})
    await insert(connection, "echo", tenant_id="small", needs=["cpu"])
    pool = Pool(database_url)
    assert await pool.claim(10) == ["small"]
    await pool.close()


async def test_behind_more_than_a_thousand_shares_that_cannot_run_another_share_s_job_is_found(
    database_url: str, connection: Connection
) -> None:
    await fair(connection)
    await connection.execute("insert into pushq.resources (name, capacity) values ('closed', 0)")
    await connection.execute(
        "insert into pushq.jobs (task, tenant_id, needs) "
        "select 'echo', 'tenant ' || number, '[\"closed\"]' from generate_series(1, 1500) as number"
    )
    await insert(connection, "echo", tenant_id="small", needs=["cpu"])
    pool = Pool(database_url)
    for _ in range(100):
        if tenants := await pool.claim(10):
            break
    assert tenants == ["small"]
    await pool.close()


async def test_a_claim_of_a_fair_queue_and_of_others_keeps_to_what_they_share(
    database_url: str, connection: Connection
) -> None:
    await fair(connection)
    await connection.execute("select pushq.be_fair('other', 'tenant'), pushq.limit('gpu', 2)")
    pool = Pool(database_url, ("default", "plain", "other"))
    for queue in ("default", "plain", "other"):
        await insert(connection, "echo", 3, queue=queue, needs=["gpu"])
    assert len(await pool.claim(100)) == 2
    assert await connection.fetchval("select units from pushq.held()") == 2
    await pool.close()
