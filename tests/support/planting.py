"""Bugs in the functions that stand in the database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.support.jobs import Connection

LOCK_CLAIMABLE = (
    "pushq.lock_claimable(text[], text[], text, int, timestamptz, timestamptz, int, boolean, text[], text[], int[])"
)
"""The one that pools call now. Pools of before 0024_lanes call another."""


async def spoil(connection: Connection, function: str, sound: str, by: str) -> str:
    """Replaces every occurrence of a text in a function. Returns the old definition, to restore the function.

    function: its name, with its arguments if others have the name too.
    """
    kind = "regprocedure" if "(" in function else "regproc"
    definition: str = await connection.fetchval(f"select pg_get_functiondef($1::text::{kind})", function)
    assert sound in definition, f"{sound!r} is not in {function}: plant this bug elsewhere"
    await connection.execute(definition.replace(sound, by))
    return definition


@asynccontextmanager
async def spoiled(connection: Connection, function: str, sound: str, by: str) -> AsyncIterator[None]:
    definition = await spoil(connection, function, sound, by)
    try:
        yield
    finally:
        await connection.execute(definition)
