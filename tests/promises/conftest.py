"""What several promises need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pushq.database.session import Session
from pushq.pool.store import Store
from tests.support.jobs import Connection


@pytest.fixture
def diary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the tasks of tests/support/lifespans.py write what happens."""
    path = tmp_path / "diary"
    path.touch()
    monkeypatch.setenv("TEST_DIARY", str(path))
    return path


@pytest.fixture
async def store(connection: Connection, database_url: str) -> AsyncIterator[Store]:
    """A pool's statements, for a supervisor that lives."""
    await connection.execute(
        "insert into pushq.supervisors (name, host, pid, lease, lease_until) "
        "values ('me', 'here', 1, '1 hour', now() + interval '1 hour')"
    )
    session = Session(database_url, "test")
    yield Store(session, supervisor="me")
    await session.close()
