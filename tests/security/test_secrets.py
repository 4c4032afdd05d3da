"""No secret gets out: into a command line, a log, an error, a table, or a metric."""

from __future__ import annotations

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from pushq.supervisor.readiness import AWAY
from tests.cli.test_exporter import get
from tests.security.conftest import UrlAs
from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import RunningSupervisor, pushq, supervising
from tests.support.waiting import eventually

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
        environments = [Path(f"/proc/{pid}/environ").read_text() for pid in supervisor.pools]
        activity = await connection.fetchval(
            "select string_agg(a::text, ' ') from pg_stat_activity as a where datname = current_database()"
        )
        said = supervisor.said
    assert "pushq_jobs_finished_total" in scraped
    assert all("PUSHQ_SHUTDOWN_TIMEOUT" in environment for environment in environments)  # the rest is there
    processes = (*command_lines, *environments)
    for shown in (refused, scraped, ready, said, activity, *processes, await everything_stored(connection)):
        assert CANARY not in shown


RULE = """
alter table pushq.jobs add constraint not_today
check (task <> 'echo' or status not in ('succeeded', 'failed') or result is null) not valid
"""


@pytest.mark.parametrize("form", ["console", "json"])
async def test_passwords_and_payloads_are_nowhere_to_be_seen_when_things_break(
    connection: Connection, url_as: UrlAs, form: str
) -> None:
    """A pool dies, the database is lost and refuses us for a while, and a row is refused whose DETAIL shows it all."""
    login = urlsplit(url_as("worker")).username
    await connection.execute(f"alter role {login} password '{CANARY}'")
    url = url_as("worker").replace(":secret@", f":{CANARY}@")
    flags = ("--log-level", "debug", "--log-format", form)
    with supervising(url, *flags, ready=False, LISTEN_DATABASE_URL=url) as supervisor:
        await finished(connection, *await insert(connection, "die.once"))
        await connection.execute(RULE)
        (refused,) = await finished(connection, *await insert(connection, "echo", payload={"card": CANARY}))
        await connection.execute(f"alter role {login} nologin")
        await connection.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{login}'")
        await has_said(supervisor, "database lost")
        (port,) = re.findall(r"http_port\W+(\d+)", supervisor.said)
        await eventually(lambda: _is_away(port))
        shown = [get(f"http://127.0.0.1:{port}{path}")[1] for path in ("/readyz", "/metrics")]
        await connection.execute(f"alter role {login} login")
        await has_said(supervisor, "database back")
        await finished(connection, *await insert(connection, "pid"))
        assert supervisor.stop() == 0
        said = supervisor.said

    assert "pool died" in said
    assert "not_today" in refused["error"]
    assert (refused["status"], refused["result"]) == ("failed", None)
    assert all(CANARY not in text for text in (*shown, said, refused["error"]))


async def _is_away(port: str) -> bool:
    """As everybody may know, without the name of the database, its host or the role."""
    return get(f"http://127.0.0.1:{port}/readyz") == (503, f"{AWAY}\n")


async def has_said(supervisor: RunningSupervisor, words: str) -> None:
    async def look() -> bool:
        return words in supervisor.said

    await eventually(look)


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
