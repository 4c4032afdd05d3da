"""The examples of docs/how-to/insert-jobs.md run as they stand."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
from inspect import iscoroutine
from typing import Any

import asyncpg
import psycopg
import psycopg2
import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from pushq import Queue, Tasks
from pushq.errors import UnusableConnection
from tests.producers.drivers import of_driver
from tests.support.jobs import Connection
from tests.support.node import run_node
from tests.support.supervisors import ROOT

tasks = Tasks()


@tasks.register("mail.welcome", queue="mail")
async def send_welcome(user_id: int) -> None: ...


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "users"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


@pytest.fixture
async def names(database_url: str, connection: Connection) -> dict[str, Any]:
    """What the examples take for granted."""
    await connection.execute("create table users (id bigint generated always as identity primary key, name text)")
    return {"queue": Queue(), "send_welcome": send_welcome, "User": User, "url": database_url, "json": json}


async def test_from_python(names: dict[str, Any], connection: Connection) -> None:
    await run("From Python", 0, names | {"connection": connection, "Queue": Queue})

    assert await inserted(connection) == [7, 0, 1, 2, 3, 4]


async def test_many_jobs(names: dict[str, Any], connection: Connection) -> None:
    await run("Many jobs", 0, names | {"connection": connection})

    assert len(await inserted(connection)) == 100_000


async def test_asyncpg(names: dict[str, Any], connection: Connection) -> None:
    async with asyncpg.create_pool(names["url"], min_size=1, max_size=1) as pool:
        await run("asyncpg", 0, names | {"pool": pool})

    assert await inserted(connection) == [7]


@pytest.mark.parametrize("number", [0, 1])
async def test_psycopg(number: int, names: dict[str, Any], connection: Connection) -> None:
    await run("psycopg 3", number, names | {"psycopg": psycopg})

    assert await inserted(connection) == [7]
    assert await connection.fetchval("select name from users") == "Ada"


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg"])
async def test_sqlalchemy(driver: str, names: dict[str, Any], connection: Connection) -> None:
    engine = create_async_engine(of_driver(names["url"], driver))
    await run("SQLAlchemy 2", 0, names | {"AsyncSession": AsyncSession, "engine": engine})

    assert await inserted(connection) == [1]
    await engine.dispose()


async def test_sqlalchemy_without_asyncio(names: dict[str, Any], connection: Connection) -> None:
    engine = create_engine(of_driver(names["url"], "psycopg"))
    await run("SQLAlchemy 2", 1, names | {"Session": Session, "engine": engine})

    assert await inserted(connection) == [1]
    engine.dispose()


async def test_django(names: dict[str, Any], connection: Connection) -> None:
    program = f"""
import django
django.setup()
from django.db import connection, transaction
from pushq import Queue
from tests.contrib.shop.models import User
from tests.producers.test_documented import send_welcome
queue = Queue()
{example("Django", 0)}"""
    settings = {"DJANGO_SETTINGS_MODULE": "tests.contrib.shop.settings", "DATABASE_URL": names["url"]}
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, env=os.environ | settings, check=True, timeout=50)

    assert await inserted(connection) == [1]


async def test_psycopg2(names: dict[str, Any], connection: Connection) -> None:
    open_one = psycopg2.connect(names["url"])
    with pytest.raises(UnusableConnection, match=r"not psycopg2\.extensions\.connection; use psycopg 3, or write"):
        Queue().insert_sync(send_welcome.job(user_id=7), connection=open_one)
    await run("Other drivers", 0, names | {"connection": open_one})

    assert await inserted(connection) == [7]
    open_one.close()


async def test_node(names: dict[str, Any], connection: Connection) -> None:
    (snippet,) = re.findall(r"```js\n(.*?)```", section("From Node.js"), re.DOTALL)
    await asyncio.to_thread(run_node, NODE.replace("SNIPPET", snippet), URL=names["url"])

    assert await inserted(connection) == [1]


NODE = """
const { Client } = require("pg");
(async () => {
  const client = new Client({ connectionString: process.env.URL });
  await client.connect();
  SNIPPET
  await client.end();
})();
"""


@pytest.mark.usefixtures("names")
async def test_the_statements_of_go(connection: Connection) -> None:
    user, job = re.findall(r'"(insert into .*?)"', section("From Go"))
    user_id = await connection.fetchval(user, "Ada")
    await connection.execute(job, json.dumps({"user_id": user_id}))

    assert await inserted(connection) == [1]


async def test_the_engine_of_a_session_with_many(names: dict[str, Any], connection: Connection) -> None:
    engine = create_async_engine(of_driver(names["url"], "asyncpg"))
    call = next(text for text in quoted("SQLAlchemy 2") if text.startswith("await session.connection("))
    async with AsyncSession(binds={User: engine}) as session, session.begin():
        names |= {"session": session}
        await evaluate(f"await queue.insert(send_welcome.job(user_id=3), connection={call})", names)
    await engine.dispose()

    assert await inserted(connection) == [3]


async def inserted(connection: Connection) -> list[int]:
    """The users of all jobs, in the order of their ids."""
    rows = await connection.fetch("select task, queue, payload from pushq.jobs order by id")
    assert {(row["task"], row["queue"]) for row in rows} == {("mail.welcome", "mail")}
    return [json.loads(row["payload"])["user_id"] for row in rows]


async def run(heading: str, number: int, names: dict[str, Any]) -> None:
    await evaluate(example(heading, number), names)


async def evaluate(code: str, names: dict[str, Any]) -> None:
    compiled = compile(code, "insert-jobs.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    waiting = eval(compiled, names)
    if iscoroutine(waiting):
        await waiting


def example(heading: str, number: int) -> str:
    """The code of a section, without its subsections."""
    examples: list[str] = re.findall(r"^```python\n(.*?)^```", section(heading), re.MULTILINE | re.DOTALL)
    return examples[number]


def quoted(heading: str) -> list[str]:
    return re.findall(r"`([^`\n]+)`", section(heading))


def section(heading: str) -> str:
    text = (ROOT / "docs" / "how-to" / "insert-jobs.md").read_text()
    found = re.search(rf"^#+ {re.escape(heading)}\n(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
    assert found, heading
    return found[1]
