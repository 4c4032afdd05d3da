"""Tests of other folders, once more with the oldest PostgreSQL that pushq promises."""

from __future__ import annotations

import asyncio

import pytest

from tests.support import oldest
from tests.support.databases import Databases
from tests.support.server import ADDRESSES, Server, server_at


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Server:
    if not oldest.binaries():
        pytest.skip(f"there is no PostgreSQL {oldest.VERSION} here, and Debian's package cannot be had")
    return server_at(pytestconfig.stash[ADDRESSES]["oldest"])


@pytest.fixture(scope="session")
def template(server: Server) -> str:
    return asyncio.run(server.make_template())


@pytest.fixture(scope="session")
def databases(server: Server, template: str) -> Databases:
    return Databases(server, template)
