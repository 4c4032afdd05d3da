"""One PostgreSQL for the whole run, from the first test on that asks; a database for each, as new.

pytest's main process starts the server; xdist's workers are told where to ask for it. The tests of `tests/prove/oldest`
ask for a server of their own.
"""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pushq.errors import UsageError
from pushq.local.server import find_binaries
from tests.support.databases import Databases
from tests.support.server import ADDRESSES, SERVERS, OnDemand, Server, server_at

_MAY_BE_IGNORED = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)
_KEPT = ("PUSHQ_TEST_", "PUSHQ_PG_BINDIR")


def pytest_configure() -> None:
    """Forgets the settings of whoever runs the tests. Hundreds of processes start, and need not compile pushq anew."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    for name in list(os.environ):
        if name == "DATABASE_URL" or (name.startswith("PUSHQ_") and not name.startswith(_KEPT)):
            del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests, which have a timeout of their own, begin early and apart: short ones are to fill the end."""
    long = [item for item in items if item.get_closest_marker("timeout")]
    short = [item for item in items if not item.get_closest_marker("timeout")]
    apart = 1 + len(short) * 2 // 3 // max(1, len(long))
    for place, item in enumerate(long):
        short.insert(place * apart, item)
    items[:] = short


def pytest_collection_finish() -> None:
    """The collected tests live as long as the process: looking at them again and again finds no garbage."""
    gc.collect()
    gc.freeze()


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    if told := getattr(config, "workerinput", None):
        config.stash[ADDRESSES] = told["servers"]
    elif not config.getoption("collectonly"):
        try:
            find_binaries()
        except UsageError as error:
            pytest.exit(str(error), returncode=2)
        on_demand = {name: OnDemand(running) for name, running in SERVERS.items()}
        for one in on_demand.values():
            config.add_cleanup(one.close)
        config.stash[ADDRESSES] = {name: one.address for name, one in on_demand.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """xdist is about to start a worker."""
    if ADDRESSES in node.config.stash:
        node.workerinput["servers"] = node.config.stash[ADDRESSES]


@pytest.fixture(autouse=True, scope="session")
def signals_as_usual() -> Iterator[None]:
    """What this process starts gets signals, though nohup has SIGHUP ignored, and a shell's background SIGINT."""
    numbers = [number for number in _MAY_BE_IGNORED if signal.getsignal(number) is signal.SIG_IGN]
    for number in numbers:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture(autouse=True)
def environment_as_before() -> Iterator[None]:
    """Refuses a test that leaves a setting behind for the tests after it in the same process."""
    before = _settings()
    yield
    assert _settings() == before


def _settings() -> dict[str, str]:
    own = ("PUSHQ_", "DATABASE_URL", "TEST_", "PG", "HOME", "PATH")
    return {name: value for name, value in os.environ.items() if name.startswith(own)}


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Server:
    """The server of this run; `server.url` is a superuser's, to its database `postgres`."""
    return server_at(pytestconfig.stash[ADDRESSES]["server"])


@pytest.fixture(scope="session")
def server_bin_directory(server: Server) -> Path:
    """Where psql and pgbench are."""
    return Path(server.bin_directory)


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    return asyncio.run(server.make_template())


@pytest.fixture(scope="session")
def databases(server: Server, template: str) -> Databases:
    return Databases(server, template)


@pytest.fixture
async def database_url(databases: Databases) -> AsyncIterator[str]:
    """A database with pushq's schema, as new."""
    async with databases.lent() as url:
        yield url


@pytest.fixture
async def empty_database_url(server: Server) -> AsyncIterator[str]:
    """A fresh database that was never migrated."""
    async with server.fresh_database() as url:
        yield url


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Somebody else's connection to database_url: an app's, or an onlooker's."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close(timeout=5)
