from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import asyncpg
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pushq.database.session import Session
from pushq.database.url import _SETTINGS, _WHERE, blame, describe, destination, left_out, normalise
from pushq.errors import DatabaseAway, DatabaseRefused, SettingsError
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
        "supa=base-pooler.x&uselibpqcompat=true&pool_max_conns=10&default_query_exec_mode=simple_protocol",
        "binary_parameters=yes&prepareThreshold=0&serverVersion=15&charset=utf8&encoding=unicode&pool=5",
        "schema_search_path=public&currentSchema=public&statusColor=F8F8F8&env=local&conn_max_age=600&min_size=1",
        "pool_size=5&max_overflow=3&command_timeout=5&connectTimeout=5&ApplicationName=x&servicefile=/nonexistent",
        "oauth_issuer=x&ssl=no-verify&requiressl=0&myapp.tenant=acme",
    ],
)
async def test_a_url_made_for_another_driver_connects(server: Server, parameters: str) -> None:
    connection = await asyncpg.connect(destination(f"{server.url}&{parameters}"))
    await connection.close()


@given(st.text(st.characters(codec="utf-8"), min_size=1), st.text(st.characters(codec="utf-8"), min_size=1))
@settings(max_examples=300, derandomize=True)
def test_no_parameter_reaches_the_server_that_is_not_meant_for_it(name: str, value: str) -> None:
    assume(name.lower() not in _WHERE | _SETTINGS and "." not in name)
    with suppress(SettingsError):  # "did you mean"
        url = normalise(f"postgresql://h/d?{urlencode({name: value, 'application_name': 'a'})}")
        assert url == "postgresql://h/d?application_name=a"


def test_what_is_left_out_of_a_url_is_told_unless_it_would_change_nothing() -> None:
    url = "postgresql://h/d?pool_size=5&channel_binding=require&gssencmode=prefer&connect_timeout=3&sslmode=require"

    assert left_out(url) == ("channel_binding", "pool_size")
    assert left_out(None) == ()


async def test_a_parameter_that_the_server_refuses_is_told_in_a_sentence(server: Server) -> None:
    for parameter in ("options=project%3Dep-cool-x-123", "work_mem=soon", "role=nobody_here"):
        session = Session(f"{server.url}&{parameter}", "pushq")
        with pytest.raises(DatabaseRefused, match=r"^Database .* refused us: [^\n]+\.$"):
            await session.fetch("select 1")


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ("target_session_attrs=master", "target_session_attrs"),
        ("gsslib=kerberos", "gsslib"),
        ("sslmode=require&ssl_min_protocol_version=TLSv9", "TLSv9"),
        ("sslmode=verify-full&sslrootcert=/nonexistent", "has sslrootcert=/nonexistent, which is no file"),
    ],
)
async def test_a_parameter_that_the_driver_refuses_is_told_in_a_sentence(parameters: str, reason: str) -> None:
    session = Session(f"postgresql://me@127.0.0.1:1/app?{parameters}", "pushq")
    with pytest.raises(SettingsError) as refused:
        await session.fetch("select 1")
    assert reason in str(refused.value)
    assert re.fullmatch(r"The database URL [^\n]+\.", str(refused.value))


async def test_settings_for_the_server_reach_it(server: Server) -> None:
    url = normalise(f"{server.url}&statement_timeout=5s&options=-c%20lock_timeout%3D3s")
    connection = await asyncpg.connect(url)
    settings = [await connection.fetchval(f"show {name}") for name in ("statement_timeout", "lock_timeout")]
    await connection.close()
    assert settings == ["5s", "3s"]


async def test_keywords_of_libpq_connect(server: Server) -> None:
    parts = urlsplit(server.url)
    keywords = dict(parse_qsl(parts.query)) | {"dbname": "template1"}
    given = {"host": parts.hostname, "port": parts.port, "user": parts.username, "password": parts.password}
    keywords |= {name: unquote(str(value)) for name, value in given.items() if value}
    connection = await asyncpg.connect(normalise(" ".join(f"{name}='{value}'" for name, value in keywords.items())))
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
        ("host=db hostaddr=10.0.0.1 port=6000", "postgresql://?host=10.0.0.1&port=6000"),
        ("postgresql://u:p@db:6000/d?hostaddr=::1", "postgresql://u:p@/d?host=[::1]&port=6000"),
        ("host=::1 dbname=d", "postgresql:///d?host=[::1]"),
        ("host=fe80::1,db port=6000", "postgresql://?host=[fe80::1],db&port=6000,6000"),
        ("host=a,b,c port=1,,3", "postgresql://?host=a,b,c&port=1,5432,3"),
        ("host=/tmp/x port=6000", "postgresql://?host=/tmp/x&port=6000"),
        ("host=/tmp/x:6000", "postgresql://?host=/tmp/x&port=6000"),
        ("postgresql://u@%2Ftmp%2Fx:6000/d", "postgresql://u@%2Ftmp%2Fx:6000/d"),
        ("postgresql://u:p@localhost/d?host=/cloudsql/p:r:i", "postgresql://u:p@/d?host=/cloudsql/p:r:i"),
        ("postgresql://u@h/a?dbname=b&port=6000", "postgresql://u@/b?host=h&port=6000"),
        ("'postgresql://h/d'", "postgresql://h/d"),
        ('"postgresql://h/d"', "postgresql://h/d"),
        ("DATABASE_URL=postgresql://h/d", "postgresql://h/d"),
        ("export PUSHQ_DATABASE_URL='postgres://h/d'", "postgresql://h/d"),
        ("psql 'postgresql://h/d'", "postgresql://h/d"),
        ("jdbc:postgresql://h:6000/d?user=u&password=p", "postgresql://h:6000/d?user=u&password=p"),
        ("host=h user=u password=a;b=postgres://c", "postgresql://?host=h&user=u&password=a%3Bb%3Dpostgres://c"),
        ("postgresql://h/d?sslmode=no-verify", "postgresql://h/d?sslmode=require"),
        ("postgresql://h/d?requiressl=1", "postgresql://h/d?sslmode=require"),
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
        ("postgresql://u:secret@::1/d", "an IPv6 address without brackets; write it as [::1]"),
        ("postgresql://u:secret@fe80::1:5432/d", "an IPv6 address without brackets"),
        ("Host=h;Port=5432;Database=d;Username=u;Password=secret", "the form of ADO.NET"),
        ("Server=h;Database=d;User Id=u;Password=secret;SSL Mode=Require", "the form of ADO.NET"),
        ("postgresql://u:secret@h/d?sslmod=require", "did you mean 'sslmode'?"),
        ("postgresql://u:secret@h/d?sslMode=require", "did you mean 'sslmode'?"),
        ("postgresql://u:secret@h/d?sslmode=on", "sslmode=on, which is none of disable, "),
        ("postgresql://u:secret@h/d?port=x", "port=x, which is no port"),
        ("postgresql://u:secret@h1,,h2/d", "a comma and no host beside it"),
        ("host=a, password=secret", "a comma and no host beside it"),
        ("host=a,b,c port=1,2 password=secret", "2 ports for 3 hosts"),
        ("host=a hostaddr=10.0.0.1 sslmode=verify-full password=secret", "cannot do both"),
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
        ("service=s password=secret", "The database of service s"),
        ("service=s dbname=d", "Database d of service s"),
    ],
)
def test_a_database_is_described_without_its_password(url: str, description: str) -> None:
    assert describe(url) == description


# What stands elsewhere -----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variable and no file of libpq's."""
    for name in [name for name in os.environ if name.startswith("PG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_where_nothing_is_set_a_fault_begins_with_that(monkeypatch: pytest.MonkeyPatch) -> None:
    assert blame(None).startswith("No database is set: give PUSHQ_DATABASE_URL. ")
    assert blame("postgresql://h/d") == "Database d at h"
    assert describe(None) == "The default database"
    assert destination(None) == "postgresql://"

    monkeypatch.setenv("PGDATABASE", "d")
    assert describe(None) == blame(None) == "The database of the PG* variables"


def test_the_variables_of_libpq_say_where_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPORT", "6000")
    assert destination(None) == "postgresql://"  # asyncpg reads PGPORT itself
    assert describe(None) == "The database of the PG* variables"
    for name, value in (("HOST", "::1"), ("PORT", "6000"), ("DATABASE", "d"), ("USER", "u"), ("OPTIONS", "-c jit=off")):
        monkeypatch.setenv(f"PG{name}", value)
    assert destination(None) == "postgresql:///d?host=[::1]&port=6000&user=u&options=-c+jit%3Doff"

    monkeypatch.setenv("PGHOSTADDR", "10.0.0.1")
    assert "host=10.0.0.1&" in destination(None)


SERVICES = """\
# a comment
[shop]
host=db
port=6000
dbname=shop
user=app
password=p=%x
[other]
host=elsewhere
"""


def test_a_service_is_looked_up_in_its_file_and_the_url_wins(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".pg_service.conf").write_text(SERVICES)
    whole = "postgresql:///shop?host=db&port=6000&user=app&password=p%3D%25x"
    assert destination("service=shop") == destination("postgresql://?service=shop") == whole
    assert destination("postgresql:///d?service=shop&user=me") == whole.replace("app", "me")

    monkeypatch.setenv("PGSERVICE", "shop")
    assert destination(None) == whole
    assert destination("postgresql://h/d") == "postgresql://h/d"


def test_a_service_file_is_where_one_is_told_or_in_the_system_s_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "pg_service.conf").write_text(SERVICES)
    monkeypatch.setenv("PGSYSCONFDIR", str(tmp_path))
    assert destination("service=other") == "postgresql://?host=elsewhere"
    monkeypatch.delenv("PGSYSCONFDIR")
    assert destination(f"service=other servicefile={tmp_path}/pg_service.conf") == "postgresql://?host=elsewhere"
    monkeypatch.setenv("PGSERVICEFILE", f"{tmp_path}/pg_service.conf")
    assert destination("service=other") == "postgresql://?host=elsewhere"


@pytest.mark.parametrize("content", [None, "[another]\nhost=h\n", "no section\n", "[shop\n"])
def test_a_service_that_is_not_there_is_refused(tmp_path: Path, content: str | None) -> None:
    if content:
        (tmp_path / ".pg_service.conf").write_text(content)
    with pytest.raises(SettingsError, match=r"^The database URL names .*service.*pg_service.conf.*\.$"):
        destination("service=shop")


async def test_a_service_file_that_is_gone_for_a_while_ends_nothing_that_runs(server: Server, tmp_path: Path) -> None:
    file = tmp_path / ".pg_service.conf"
    given = "\n".join(f"{name}={value}" for name, value in parse_qsl(urlsplit(server.url).query))
    file.write_text(f"[shop]\nuser=pushq\ndbname=template1\n{given}\n")
    session = Session("service=shop", "pushq")
    await session.fetch("select 1")
    session.discard()
    file.rename(tmp_path / "away")

    with pytest.raises(DatabaseAway, match="names service 'shop'"):
        await session.fetch("select 1")

    (tmp_path / "away").rename(file)
    await session.fetch("select 1")
    await session.close()


def test_a_user_without_a_name_is_asked_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise KeyError("getpwuid(): uid not found: 4711")

    monkeypatch.setattr("getpass.getuser", nameless)
    with pytest.raises(SettingsError, match="names no user"):
        destination("postgresql://h/d")
    assert destination("postgresql://u@h/d") == "postgresql://u@h/d"
    monkeypatch.setenv("PGUSER", "u")
    assert destination("postgresql://h/d") == "postgresql://h/d"
