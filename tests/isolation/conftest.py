"""One stage a worker: its database and its sessions serve all permutations."""

from __future__ import annotations

from collections.abc import AsyncIterator

import asyncpg
import pytest_asyncio

from pushq.database.migrate import migrations
from tests.isolation.stage import Stage
from tests.support.server import Server


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stage(server: Server, template: str) -> AsyncIterator[Stage]:
    async with server.fresh_database(template) as url, Stage.set_up(url) as stage:
        yield stage


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def stage_that_lacks_the_newest_migration(server: Server) -> AsyncIterator[Stage]:
    async with server.fresh_database() as url:
        connection = await asyncpg.connect(url)
        for migration in migrations()[:-1]:
            await connection.execute(migration.sql)
        await connection.close()
        async with Stage.set_up(url) as stage:
            yield stage
