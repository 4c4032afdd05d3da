"""Real roles: a producer, a worker, an observer, and a bystander who may only connect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import pytest

from tests.support.jobs import Connection
from tests.support.roles import Logins, a_login_each, a_role

UrlAs: TypeAlias = Callable[[str], str]


@pytest.fixture
async def logins(database_url: str, connection: Connection) -> AsyncIterator[Logins]:
    """A login a role, to database_url."""
    async with a_login_each(connection, database_url) as logins:
        yield logins


@pytest.fixture
def url_as(logins: Logins) -> UrlAs:
    """The database's URL for the login with a role."""
    return logins.url_as


@pytest.fixture
async def separated(connection: Connection) -> AsyncIterator[Connection]:
    """The owner's connection, to a database where tenants are kept apart."""
    await connection.execute("select pushq.separate_tenants()")
    yield connection
    await connection.execute("delete from pushq.tenant_roles")
    await connection.execute("select pushq.unite_tenants()")


@pytest.fixture
async def app(separated: Connection) -> AsyncIterator[str]:
    """A login of tenants."""
    async with a_role(separated, "pushq_tenant") as login:
        yield login
