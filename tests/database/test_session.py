"""A session says in pg_stat_activity whose it is and what for."""

from __future__ import annotations

import pytest

from pushq.database.session import Session


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("pushq supervisor web-1-77-abcdef: sweeper", "pushq supervisor web-1-77-abcdef: sweeper"),
        (
            f"pushq pool 12 of {'a-very-long-host-name-' * 4}77-abcdef: outcomes",
            "pushq pool 12 of a-v..a-very-long-host-name-77-abcdef: outcomes",
        ),
    ],
)
async def test_a_name_too_long_to_be_shown_keeps_its_beginning_and_its_end(
    database_url: str, name: str, shown: str
) -> None:
    session = Session(database_url, name)
    (row,) = await session.fetch("select current_setting('application_name') as shown")
    await session.close()

    assert row["shown"] == shown
