"""No secret gets out: into a command line, a log, an error, a table, or a metric."""

from __future__ import annotations

import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.security.conftest import UrlAs
from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import pushq, supervising

CANARY = "canary-7f3a91"


async def everything_stored(connection: Connection) -> str:
    tables = await connection.fetch(
        "select oid::regclass::text as name from pg_class where relnamespace = 'pushq'::regnamespace and relkind = 'r'"
    )
    rows = [await connection.fetchval(f"select string_agg(t::text, ' ') from {table['name']} as t") for table in tables]
    return " ".join(row or "" for row in rows)


async def test_passwords_and_tokens_are_nowhere_to_be_seen(connection: Connection, url_as: UrlAs) -> None:
    login = urlsplit(url_as("worker")).username
    await connection.execute(f"alter role {login} password '{CANARY}'")
    url = url_as("worker").replace(":secret@", f":{CANARY}@")
    secrets = {"LISTEN_DATABASE_URL": url, "HTTP_TOKEN": CANARY + "-token"}
    with supervising(url, "--log-level", "debug", ready=True, **secrets) as supervisor:
        await finished(connection, *await insert(connection, "echo"), *await insert(connection, "fail"))
        _, refused = supervisor.get("/metrics")
        _, scraped = supervisor.get("/metrics", Authorization=f"Bearer {CANARY}-token")
        _, ready = supervisor.get("/readyz")
        command_lines = [
            Path(f"/proc/{pid}/cmdline").read_text() for pid in (supervisor.process.pid, *supervisor.pools)
        ]
        activity = await connection.fetchval("select string_agg(a::text, ' ') from pg_stat_activity as a")
        said = supervisor.said
    assert "pushq_jobs_finished_total" in scraped
    for shown in (refused, scraped, ready, said, activity, *command_lines, await everything_stored(connection)):
        assert CANARY not in shown


@pytest.mark.parametrize(
    "where", ["localhost:1", "no-such-host.invalid:5432", "/var/empty"], ids=["refused", "unknown host", "no socket"]
)
def test_an_error_names_the_database_and_not_the_password(where: str) -> None:
    netloc = f"app:{CANARY}@" + (where if not where.startswith("/") else "")
    url = f"postgresql://{netloc}/db" + (f"?host={where}" if where.startswith("/") else "")
    ended = pushq("jobs", url=url)

    assert ended.returncode == 1
    assert CANARY not in ended.stdout + ended.stderr


def test_settings_do_not_show_their_secrets_when_they_are_printed() -> None:
    from pushq.settings import Settings

    settings = Settings(database_url=f"postgresql://app:{CANARY}@host/db", http_token=CANARY)  # type: ignore[arg-type]
    assert CANARY not in repr(settings) + str(settings)


def test_what_a_refused_row_holds_is_in_no_error(database_url: str) -> None:
    ended = pushq("enqueue", "x" * 300, "--payload", json.dumps({"secret": CANARY}), url=database_url)

    assert ended.returncode != 0
    assert CANARY not in ended.stderr
