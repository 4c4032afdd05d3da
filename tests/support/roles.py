"""Logins with the roles that `pushq migrate --roles` grants, and one with none."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import astuple, dataclass
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg

from pushq.database.roles import Roles, grants
from tests.support.jobs import Connection

GROUPS = ("producer", "worker", "observer", "admin")
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

    @property
    def roles(self) -> Roles:
        return fresh_roles(self.suffix)

    def url_as(self, login: str) -> str:
        return url_as(self.url, self.name(login))


def url_as(url: str, role: str, password: str = "secret") -> str:
    """The same database for another role."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{role}:{password}@{parts.netloc.rpartition('@')[2]}").geturl()


def fresh_roles(suffix: str | None = None) -> Roles:
    """Roles are the whole server's: these get names of their own, as far as the schema does not name them."""
    suffix = suffix or uuid4().hex[:8]
    return Roles(*(f"pushq_{group}_{suffix}" for group in (*GROUPS, "tenant")))


async def drop(connection: Connection, roles: Roles) -> None:
    for role in astuple(roles):
        await connection.execute(f"drop owned by {role}; drop role {role}")


@asynccontextmanager
async def granted(connection: Connection) -> AsyncIterator[Roles]:
    """Fresh roles with their rights in the connection's database. connection: the owner's."""
    roles = fresh_roles()
    await connection.execute(grants(roles))
    yield roles
    await connection.execute("reset role")
    await drop(connection, roles)


@asynccontextmanager
async def a_login_each(connection: Connection, url: str) -> AsyncIterator[Logins]:
    """connection: the owner's, to the database of url."""
    async with granted(connection) as roles:
        logins = Logins(url, roles.producer.rpartition("_")[2])
        for login in LOGINS:
            await connection.execute(f"create role {logins.name(login)} login password 'secret'")
        for group in GROUPS:
            await connection.execute(f"grant {logins.group(group)} to {logins.name(group)}")
        yield logins
        for login in LOGINS:
            await connection.execute(f"drop owned by {logins.name(login)}; drop role {logins.name(login)}")


@asynccontextmanager
async def a_role(
    connection: Connection, *groups: str, attributes: str = "login password 'secret'"
) -> AsyncIterator[str]:
    name = f"somebody_{uuid4().hex[:8]}"
    await connection.execute(f"create role {name} {attributes}")
    for group in groups:
        await connection.execute(f"grant {group} to {name}")
    yield name
    await connection.execute(f"drop owned by {name}; drop role {name}")


@asynccontextmanager
async def session(url: str, login: str, tenant: str | None = None) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(url_as(url, login))
    if tenant is not None:
        await connection.execute("select set_config('pushq.tenant_id', $1, false)", tenant)
    yield connection
    await connection.close()
