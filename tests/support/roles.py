"""Logins with the roles that `pushq migrate --roles` grants, and one with none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit
from uuid import uuid4

from pushq.database.migrate import roles
from tests.support.jobs import Connection

GROUPS = ("producer", "worker", "observer")
LOGINS = (*GROUPS, "bystander")
"""The bystander may connect, and nothing else."""


@dataclass(frozen=True)
class Logins:
    """Roles are the whole server's: these have names of their own, that end with a suffix."""

    url: str
    suffix: str

    def name(self, login: str) -> str:
        return f"{login}_{self.suffix}"

    def group(self, group: str) -> str:
        return f"pushq_{group}_{self.suffix}"

    def url_as(self, login: str) -> str:
        return url_as(self.url, self.name(login))


def url_as(url: str, role: str, password: str = "secret") -> str:
    """The same database for another role."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


@asynccontextmanager
async def a_login_each(connection: Connection, url: str) -> AsyncIterator[Logins]:
    """connection: the owner's, to the database of url."""
    logins = Logins(url, uuid4().hex[:8])
    groups = [logins.group(group) for group in GROUPS]
    await connection.execute(roles(*groups))
    for login in LOGINS:
        await connection.execute(f"create role {logins.name(login)} login password 'secret'")
    for group in GROUPS:
        await connection.execute(f"grant {logins.group(group)} to {logins.name(group)}")
    yield logins
    for role in [*groups, *map(logins.name, LOGINS)]:
        await connection.execute(f"drop owned by {role}; drop role {role}")
