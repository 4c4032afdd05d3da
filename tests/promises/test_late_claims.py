"""Guarantee 1: what a pool claims with its last breath is run, though the claim is carried out after its death."""

from __future__ import annotations

import os
import signal

from tests.support.jobs import Connection, finished, insert
from tests.support.proxy import proxied
from tests.support.supervisors import supervising
from tests.support.waiting import eventually, wait_until

HOLD_CLAIMS = """
    create function hold_claims() returns trigger language plpgsql as $$
    begin
        perform pg_advisory_xact_lock_shared(7);
        return new;
    end
    $$;
    create trigger hold_claims before update on pushq.jobs_unfinished
    for each row when (new.status = 'running')
    execute function hold_claims();
"""


async def test_a_claim_that_is_carried_out_after_its_pool_has_died_is_taken_back(
    database_url: str, connection: Connection
) -> None:
    """The server is slow, and does not notice that nobody waits for its answer any more."""
    await connection.execute(HOLD_CLAIMS)
    await connection.execute("select pg_advisory_lock(7)")
    with supervising(database_url) as supervisor:
        (job,) = await insert(connection, "echo")
        await eventually(lambda: _is_held(connection))
        os.kill(supervisor.pools[0], signal.SIGKILL)
        wait_until(lambda: "pool died" in supervisor.said)
        await connection.execute("select pg_advisory_unlock(7)")
        (row,) = await finished(connection, job)

    assert (row["status"], row["crashes"]) == ("succeeded", 0)


async def test_a_solo_pool_whose_claim_got_no_reply_ends_and_nobody_is_charged(
    database_url: str, connection: Connection
) -> None:
    """Its job has killed two processes already: a third crash would end it."""
    await connection.execute(HOLD_CLAIMS)
    await connection.execute("select pg_advisory_lock(7)")
    async with connection.transaction():
        (job,) = await insert(connection, "echo")
        await connection.execute("update pushq.jobs_unfinished set crashes = 2")
    async with proxied(database_url) as proxy:
        with supervising(proxy.url, ready=False) as supervisor:
            await eventually(lambda: _is_held(connection))
            await proxy.abort()
            await connection.execute("select pg_advisory_unlock(7)")
            (row,) = await finished(connection, job)
            assert "pool died" not in supervisor.said

    assert (row["status"], row["crashes"]) == ("succeeded", 2)


async def _is_held(connection: Connection) -> bool:
    return bool(await connection.fetchval("select count(*) from pg_locks where locktype = 'advisory' and not granted"))
