"""The tests of the examples once more, on the oldest PostgreSQL that pushq promises."""

from __future__ import annotations

import pytest

from tests.examples.conftest import databases, migrated, migrated_databases, migrated_url, server_of  # noqa: F401
from tests.support.server import Server


@pytest.fixture(scope="session", params=["oldest"])
def server(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> Server:
    return server_of(request, pytestconfig)
