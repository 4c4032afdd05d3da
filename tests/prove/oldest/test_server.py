"""Whether these tests have the server that they are for."""

from __future__ import annotations

from tests.support import oldest
from tests.support.jobs import Connection


async def test_the_server_is_the_oldest_that_pushq_promises(connection: Connection) -> None:
    assert connection.get_server_version().major == oldest.VERSION
