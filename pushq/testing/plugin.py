"""pytest's plugin: the fixtures `pushq_queue`, `pushq_server` and `pushq_template`.

A run has one server: that of PUSHQ_TEST_DATABASE_URL, or one that is started when the first test asks. Each test gets
a database of its own, copied from a template in a tenth of a second. Imports wait for the first test that asks, too:
the plugin is loaded wherever pushq is installed.
"""

from __future__ import annotations

import os
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

if TYPE_CHECKING:
    from pushq.testing import TestQueue


@pytest.fixture(scope="session")
def pushq_server() -> Iterator[str]:
    """The URL of a server on which test databases may be made. Override the fixture for another server."""
    from pushq.errors import PushqError  # noqa: PLC0415
    from pushq.local.server import EmbeddedServer  # noqa: PLC0415

    if given := os.environ.get("PUSHQ_TEST_DATABASE_URL"):
        yield given
        return
    try:
        server = EmbeddedServer().__enter__()
    except PushqError as error:
        pytest.fail(f"{error} Or name a server of yours in PUSHQ_TEST_DATABASE_URL.", pytrace=False)
    try:
        yield server.url()
    finally:
        server.__exit__(None, None, None)


@pytest.fixture(scope="session")
def pushq_template(pushq_server: str) -> Iterator[str]:
    """The URL of the database that tests get copies of. Override the fixture to add the app's own schema: request it,
    migrate the database that it names, and yield the same URL. No connection may stay open.
    """
    from pushq.database.migrate import migrate  # noqa: PLC0415

    name = f"pushq_test_{uuid4().hex[:12]}"
    with _made(pushq_server, name) as url:
        _wait(migrate(url))
        yield url


@pytest.fixture
def pushq_queue(pushq_server: str, pushq_template: str) -> Iterator[TestQueue]:
    """A queue in a database of the test's own, which is gone afterwards."""
    from pushq.testing import TestQueue  # noqa: PLC0415

    with _made(pushq_server, f"pushq_test_{uuid4().hex[:12]}", template=_name(pushq_template)) as url:
        yield TestQueue(url)


@contextmanager
def _made(server: str, name: str, template: str = "template1") -> Iterator[str]:
    _wait(_execute(server, f'create database "{name}" template "{template}"'))
    try:
        yield urlsplit(server)._replace(path=f"/{name}").geturl()
    finally:
        _wait(_execute(server, f'drop database "{name}" with (force)'))


def _name(url: str) -> str:
    return urlsplit(url).path.removeprefix("/")


async def _execute(url: str, statement: str) -> None:
    from pushq.database.session import Session  # noqa: PLC0415

    session = Session(url, "pushq test")
    try:
        await session.execute_alone(statement)
    finally:
        await session.close()


def _wait(work: Coroutine[object, object, object]) -> None:
    """On a loop in another thread: the test's own may be running."""
    import asyncio  # noqa: PLC0415
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415

    with ThreadPoolExecutor(1) as thread:
        thread.submit(asyncio.run, work).result()
