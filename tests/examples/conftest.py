"""The examples in docs/examples: each test runs on the newest PostgreSQL, and by tests/prove/examples on the oldest.

A module names its example in EXAMPLE. `database_url` and `connection` are then of a database with pushq and the
example's `schema.sql`, `migrated_url` and `migrated` of a database with pushq alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import cache

import asyncpg
import pytest

from tests.examples.files import apply
from tests.support import oldest
from tests.support.databases import Databases
from tests.support.jobs import Connection
from tests.support.server import ADDRESSES, Server, server_at


@pytest.fixture(scope="session", params=["server"], ids=["newest"])
def server(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Server:
    return server_of(request, pytestconfig)


def server_of(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Server:
    if request.param == "oldest" and not oldest.binaries():
        pytest.skip(f"there is no PostgreSQL {oldest.VERSION} here, and Debian's package cannot be had")
    return server_at(pytestconfig.stash[ADDRESSES][request.param])


@pytest.fixture
def databases(request: pytest.FixtureRequest, server: Server) -> Databases:
    return _databases(server, request.module.EXAMPLE)


@cache
def _databases(server: Server, example: str | None) -> Databases:
    """Those of one worker, for all tests: pytest would give up a fixture's wherever a test of another server comes."""
    template = asyncio.run(server.make_template())
    if example:
        template = asyncio.run(
            server.make_once(example, template, lambda url: apply(url, example, "schema.sql")),
        )
    return Databases(server, template)


@pytest.fixture
def migrated_databases(server: Server) -> Databases:
    return _databases(server, None)


@pytest.fixture
async def migrated_url(migrated_databases: Databases) -> AsyncIterator[str]:
    """A database with pushq's schema alone."""
    async with migrated_databases.lent() as url:
        yield url


@pytest.fixture
async def migrated(migrated_url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(migrated_url)
    yield connection
    await connection.close(timeout=5)
