"""A session says in pg_stat_activity whose it is and what for, and whatever the server says is one of our errors."""

from __future__ import annotations

import asyncpg
import pytest
from asyncpg.exceptions._base import PostgresMessageMeta

from pushq.database.session import Session, kind_of
from pushq.errors import (
    DatabaseAway,
    DatabaseRefused,
    DatabaseTrouble,
    PushqError,
    StatementRolledBack,
    UnexpectedState,
    ValueRefused,
)

KNOWN_STATES = sorted(PostgresMessageMeta._message_map)  # type: ignore[attr-defined]
"""Every SQLSTATE of PostgreSQL that asyncpg knows."""
RAISE = "do $$ begin raise exception 'no' using errcode = '{state}'; end $$"


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


async def test_whatever_a_trigger_may_raise_is_one_of_our_errors_and_the_session_lives_on(database_url: str) -> None:
    """Also a state that nobody knows. Python's own errors alone are bugs."""
    session = Session(database_url, "test")
    for state in [*KNOWN_STATES, "AB123", "P0042", "57P99", "58P99"]:
        with pytest.raises(PushqError) as raised:
            await session.fetch(RAISE.format(state=state))
        assert isinstance(raised.value, DatabaseTrouble)
        assert raised.value.state == state
        assert "no" in str(raised.value)
    assert [row["one"] for row in await session.fetch("select 1 as one")] == [1]
    await session.close()


@pytest.mark.parametrize(
    ("kind", "states"),
    [
        (DatabaseAway, "08006 25006 53100 53300 57P01 57P02 57P03 57P04 57P05 58000 58030 58P01"),
        (StatementRolledBack, "40001 40P01 55P03"),
        (UnexpectedState, "57014 P0001 XX000 XX001 0A000 55000 2BP01 42P01 42883 21000 AB123"),
        (ValueRefused, "22012 22P05 23503 23505 23514 54000"),
        (DatabaseRefused, "28000 28P01 3D000 42501"),
    ],
)
def test_what_is_waited_out_and_what_may_be_one_row_s_own(kind: type[PushqError], states: str) -> None:
    for state in states.split():
        assert kind_of(said("ERROR", state)) is kind, state
        if kind is not DatabaseRefused:
            assert kind_of(said("FATAL", state)) is DatabaseAway, state


@pytest.mark.parametrize(
    ("error", "state"),
    [
        (asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"), ""),
        (asyncpg.DataError("invalid input for query argument $1"), "22000"),
    ],
)
def test_what_the_driver_says_by_itself_is_no_answer_but_for_a_value_that_it_does_not_send(
    error: asyncpg.PostgresError, state: str
) -> None:
    assert Session("postgresql://h/d", "test")._raised(error).state == state


async def test_the_driver_s_word_about_its_own_states_is_told_as_a_lost_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def fail(_seconds: float) -> None:
        raise asyncpg.InternalClientError("cannot switch to state 12; another operation (2) is in progress")

    session = Session("postgresql://h/d", "test")
    monkeypatch.setattr(session, "_connect", fail)

    with pytest.raises(DatabaseAway, match="is away: the connection ended in the middle of a statement"):
        await session.fetch("select 1")


def said(severity: str, state: str) -> asyncpg.PostgresError:
    error = asyncpg.PostgresError.new({"S": severity, "V": severity, "C": state, "M": "no"})
    assert isinstance(error, asyncpg.PostgresError)
    return error
