"""Claims in a wrong order are told."""

from __future__ import annotations

import pytest

from tests.promises.test_claim_order import check_many_at_once, check_one_by_one
from tests.support.claiming import Claiming
from tests.support.jobs import Connection
from tests.support.planting import LOCK_CLAIMABLE, spoiled

BUGS = {
    "begins with any line": ("pushq.lock_ordinary", "order by line.first_due", "order by line.first_due desc"),
    "gives all to the first line": ("pushq.lock_ordinary", "greatest(its.firsts[2],", "greatest(lock_ordinary.due_by,"),
    "gives the rest to one line": (
        "pushq.lock_ordinary",
        "(array_agg(line.head order by line.head))[2]",
        "null::timestamptz",
    ),
    "takes any task's urgent jobs first": ("pushq.lock_by_priority", "order by line.place", "order by line.place desc"),
    "takes suspects, too": ("pushq.lock_ordinary", " and job.apart is null", ""),
    "takes urgent suspects, too": ("pushq.lock_by_priority", " and job.apart is null", ""),
    "takes any queue first": (LOCK_CLAIMABLE, "order by queue.place", "order by queue.place desc"),
}


@pytest.mark.parametrize(("function", "sound", "by"), BUGS.values(), ids=BUGS.keys())
async def test_the_order_is_told_of_a_claim_that(
    database_url: str, connection: Connection, function: str, sound: str, by: str
) -> None:
    async with Claiming.at(database_url, connection) as pool, spoiled(connection, function, sound, by):
        with pytest.raises(AssertionError):
            await check(pool, connection)


async def check(pool: Claiming, connection: Connection) -> None:
    await check_one_by_one(pool, connection)
    await check_many_at_once(pool, connection)
