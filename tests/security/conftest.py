"""Real roles: a producer, a worker, an observer, and a bystander who may only connect."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import TypeAlias

import pytest

from tests.support.jobs import Connection
from tests.support.roles import Logins, a_login_each

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
