"""What the migrations and the roles make, as text: each right by the name of its role, and none by way of PUBLIC.

`.venv/bin/python -m tests.migrations.schema > pushq/database/schema.txt` writes down what is so now.
"""

from __future__ import annotations

import asyncio

import asyncpg

from pushq.database.migrate import migrate
from pushq.database.roles import ROLES, Roles, grants
from pushq.database.schema import describe
from pushq.database.session import Session
from pushq.local.server import EmbeddedServer


async def schema(empty_database_url: str, roles: Roles) -> str:
    """roles: which do not exist yet."""
    owner = await asyncpg.connect(empty_database_url)
    await owner.execute("alter default privileges revoke execute on functions from public")
    await migrate(empty_database_url)
    await owner.execute(grants(roles))
    await owner.close()
    session = Session(empty_database_url, "schema", settings={"enable_seqscan": "on", "enable_hashjoin": "on"})
    parts = await describe(session, roles)
    await session.close()
    return "".join(f"{kind}\t{name}\t{definition}\n" for (kind, name), definition in parts.items())


async def _print() -> None:
    with EmbeddedServer(durable=False) as server:
        print(await schema(server.url(), ROLES), end="")


if __name__ == "__main__":
    asyncio.run(_print())
