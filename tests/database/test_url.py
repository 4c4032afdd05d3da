from __future__ import annotations

import asyncpg
import pytest

from pushq.database.url import describe, normalise
from pushq.errors import SettingsError
from tests.support.server import Server


@pytest.mark.parametrize(
    "parameters",
    [
        "channel_binding=require&sslmode=prefer",
        "connect_timeout=10&keepalives=1&keepalives_idle=30&tcp_user_timeout=1000",
        "gssencmode=disable&fallback_application_name=app&client_encoding=utf8",
        "pgbouncer=true&connection_limit=5&schema=public",
        "target_session_attrs=read-write&application_name=app",
        "statement_timeout=5s&ssl=false&sslrootcert=",
        "options=-c%20lock_timeout%3D3s",
    ],
)
async def test_a_url_made_for_another_driver_connects(server: Server, parameters: str) -> None:
    connection = await asyncpg.connect(normalise(f"{server.url}&{parameters}"))
    await connection.close()


async def test_settings_for_the_server_reach_it(server: Server) -> None:
    url = normalise(f"{server.url}&statement_timeout=5s&options=-c%20lock_timeout%3D3s")
    connection = await asyncpg.connect(url)
    settings = [await connection.fetchval(f"show {name}") for name in ("statement_timeout", "lock_timeout")]
    await connection.close()
    assert settings == ["5s", "3s"]


async def test_keywords_of_libpq_connect(server: Server) -> None:
    host = server.url.partition("host=")[2].partition("&")[0]
    if not host:
        pytest.skip("the server of this run is not reached through a socket")
    connection = await asyncpg.connect(normalise(f"host='{host}' port = 5432 user=pushq dbname=template1"))
    database = await connection.fetchval("select current_database()")
    await connection.close()
    assert database == "template1"


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("postgres://u:p@h/d", "postgresql://u:p@h/d"),
        ("postgresql+asyncpg://u:p@h:5433/d", "postgresql://u:p@h:5433/d"),
        ("postgresql://", "postgresql://"),
        ("postgresql:///?service=s", "postgresql://?service=s"),
        ("postgresql://u:p@ss@h/d", "postgresql://u:p%40ss@h/d"),
        ("postgresql://h1:1,h2:2,h3/d", "postgresql://h1:1,h2:2,h3/d"),
        ("postgresql://[::1]:5433/d", "postgresql://[::1]:5433/d"),
        ("postgresql://h/d?ssl=true", "postgresql://h/d?sslmode=require"),
        ("hostaddr=10.0.0.1 dbname='a b'", "postgresql:///a%20b?host=10.0.0.1"),
        ("service=s", "postgresql://?service=s"),
        (" postgresql://h/d\n", "postgresql://h/d"),
    ],
)
def test_a_url_keeps_its_meaning(given: str, meant: str) -> None:
    assert normalise(given) == meant
    assert normalise(meant) == meant


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "must look like"),
        ("secret", "must look like"),
        ("host=h password='secret", "must look like"),
        ("mysql://u:secret@h/d", "must begin with postgresql://, not mysql://"),
        ("postgresql://u:secret@h:port/d", "no port"),
        ("postgresql://u:secret@h:99999/d", "no port"),
        ("postgresql://u:sec/ret@h/d", "no port"),
        ("postgresql://u:1#secret@h/d", "%23"),
        ("postgresql://u:1?secret@h/d", "%3F"),
        ("postgresql://u:secret[@h/d", "bracket"),
    ],
)
def test_a_malformed_url_is_refused_without_showing_the_password(url: str, reason: str) -> None:
    with pytest.raises(SettingsError) as refused:
        normalise(url)
    assert reason in str(refused.value)
    assert "sec" not in str(refused.value)
    assert str(refused.value).count("\n") == 0


@pytest.mark.parametrize(
    ("url", "description"),
    [
        ("postgresql://u:secret@h:5433/shop?sslmode=require", "Database shop at h:5433"),
        ("postgresql://pushq@/shop?host=/tmp/x&password=secret", "Database shop at /tmp/x"),
        ("postgresql://u:se@cret@h", "The default database at h"),
        ("password=secret", "The default database at the default host"),
        ("mysql://u:secret@h/d", "The database"),
        (None, "The database of the PG* variables"),
    ],
)
def test_a_database_is_described_without_its_password(url: str | None, description: str) -> None:
    assert describe(url) == description
