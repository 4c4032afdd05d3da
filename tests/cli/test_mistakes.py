"""Every user's mistake gets a sentence with its remedy on standard error, and no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import asyncpg
import pytest

from pushq.local.server import EmbeddedServer
from tests.support.commands import invoke
from tests.support.supervisors import environment, pushq, supervising
from tests.support.waiting import eventually

MAY_PASS = (1, 1)
"""The exit code of what may become well by itself, so that whatever starts supervisors tries again; and a line."""

NOBODY = "postgresql://me:hunter2@127.0.0.1:1/app"


@pytest.mark.parametrize(
    ("source", "sentence", "end"),
    [
        ("import a_module_that_is_not_there", "No module named 'a_module_that_is_not_there', at app.py:1.", (2, 1)),
        ("raise RuntimeError('first line\\nsecond')", "RuntimeError: first line, at app.py:1.", MAY_PASS),
    ],
)
def test_a_registry_that_cannot_be_used_is_named_and_a_module_that_raises_may_not_do_so_the_next_time(
    database_url: str, tmp_path: Path, source: str, sentence: str, end: tuple[int, int]
) -> None:
    """The other sentences are in tests/pool/test_loading.py."""
    (tmp_path / "app.py").write_text(source)
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "pushq", "supervise", "app:tasks", "--http-port", "0", "--log-level", "error"],
        env=environment(database_url),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert sentence in ended.stderr
    assert (ended.returncode, ended.stderr.count("\n")) == end


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"CONCURRENCY": "many"}, "PUSHQ_CONCURRENCY=many cannot be used: it should be a whole number."),
        ({"PROCESSES": "1.5"}, "PUSHQ_PROCESSES=1.5 cannot be used: it should be a whole number."),
        ({"CONCURRENCY": "0"}, "PUSHQ_CONCURRENCY=0 cannot be used"),
        ({"CONCURENCY": "5"}, "There is no setting PUSHQ_CONCURENCY; did you mean PUSHQ_CONCURRENCY?"),
        ({"LEASE": "5"}, "PUSHQ_LEASE=5 cannot be used: it must be at least three times"),
        ({"WAKE": "shout"}, "PUSHQ_WAKE=shout cannot be used"),
        ({"WAKE": "poll", "POLL_INTERVAL": "0"}, "PUSHQ_WAKE=poll cannot be used with PUSHQ_POLL_INTERVAL=0"),
        ({"DATABASE_URL": "mysql://me:hunter2@host/app"}, "must begin with postgresql://"),
        ({"DATABASE_URL": "postgresql://me:hunter2@host:port/app"}, "has no port from 1 to 65535"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(settings: dict[str, str], sentence: str) -> None:
    ended = invoke("supervise", "tests.support.handlers:tasks", **settings)

    assert sentence in ended.stderr
    assert "hunter2" not in ended.stderr
    assert (ended.exit_code, ended.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    "command",
    [
        ["supervise", "tests.support.handlers:tasks"],
        *(["migrate"], ["jobs"], ["queues"], ["enqueue", "x"], ["exporter"], ["sweep"]),
    ],
    ids=lambda command: command[0],
)
def test_a_database_that_is_not_there_ends_the_command_with_1(command: list[str]) -> None:
    ended = invoke(*command, url=NOBODY)

    assert "Database app at 127.0.0.1:1 is away: " in ended.stderr
    assert "hunter2" not in ended.stderr
    assert (ended.exit_code, ended.stderr.count("\n")) == (1, 1)


@pytest.mark.parametrize(
    "command",
    [
        ["supervise", "tests.support.handlers:tasks"],
        ["jobs"],
        ["queues"],
        ["enqueue", "x"],
        ["exporter"],
        ["sweep"],
        ["queues", "pause", "x"],
        *(["jobs", verb, "0192f0c1-0000-7000-8000-000000000000"] for verb in ("cancel", "retry")),
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_a_database_that_was_not_migrated_is_told_apart(empty_database_url: str, command: list[str]) -> None:
    ended = invoke(*command, url=empty_database_url)

    assert "has no pushq schema; run `pushq migrate`." in ended.stderr
    assert (ended.exit_code, ended.stderr.count("\n")) == MAY_PASS


@pytest.mark.parametrize(
    "theirs",
    [
        "create table pushq.jobs (id int)",
        "create table pushq.migrations (id int, name text)",
        "create function pushq.schema_version() returns text language sql return 'x'",
    ],
)
async def test_somebody_else_s_schema_is_told_apart_and_left_alone(empty_database_url: str, theirs: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute(f"create schema pushq; {theirs}")
    count = "select (select count(*) from pg_class) + (select count(*) from pg_proc)"
    before = await connection.fetchval(count)
    sentence = "has a schema named pushq that pushq did not make; rename that schema, or "
    for command in (["doctor"], ["migrate"], ["jobs"], ["enqueue", "x"]):
        ended = invoke(*command, url=empty_database_url)

        assert sentence in ended.stderr, command
        assert (ended.exit_code, ended.stdout, ended.stderr.count("\n")) == (1, "", 1)
    supervisor = pushq("supervise", "tests.support.handlers:tasks", url=empty_database_url, HTTP_PORT="0")
    assert sentence in supervisor.stderr
    assert (supervisor.returncode, supervisor.stdout, supervisor.stderr.count("\n")) == (1, "", 1)
    assert await connection.fetchval(count) == before
    await connection.close()


async def test_an_empty_schema_is_nobody_s(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    await connection.execute("create schema pushq")
    await connection.close()
    ended = invoke("doctor", url=empty_database_url)

    assert "has no pushq schema; run `pushq migrate`." in ended.stderr


def test_a_database_or_role_that_does_not_exist_is_named(database_url: str) -> None:
    for url in (database_url.replace("/pushq_test_", "/no_such_"), database_url.replace("//pushq@", "//nobody_here@")):
        ended = invoke("supervise", "tests.support.handlers:tasks", url=url)

        assert "refused us: " in ended.stderr
        assert "does not exist" in ended.stderr
        assert (ended.exit_code, ended.stderr.count("\n")) == MAY_PASS


async def test_a_wrong_password_is_told_and_is_not_shown() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    with EmbeddedServer(settings={"listen_addresses": "127.0.0.1", "port": port}) as server:
        rules = server.directory / "data" / "pg_hba.conf"
        rules.write_text("host all all 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
        administrator = await asyncpg.connect(server.url().replace("port=5432", f"port={port}"))
        await administrator.execute("create role app login superuser password 'right'; select pg_reload_conf()")
        refused = f"postgresql://app:wrong@127.0.0.1:{port}/postgres"
        await eventually(lambda: _is_refused(refused))
        await administrator.close()

        for command in (["supervise", "tests.support.handlers:tasks"], ["jobs"]):
            ended = pushq(*command, url=refused, HTTP_PORT="0")
            assert 'refused us: password authentication failed for user "app".' in ended.stderr
            assert "wrong" not in ended.stderr
            assert (ended.returncode, ended.stderr.count("\n")) == MAY_PASS
        accepted = f"postgresql://app:right@127.0.0.1:{port}/postgres?channel_binding=require&connect_timeout=5"
        assert invoke("migrate", url=accepted).exit_code == 0


async def _is_refused(url: str) -> bool:
    try:
        await (await asyncpg.connect(url)).close()
    except asyncpg.InvalidPasswordError:
        return True
    return False


def test_a_host_that_is_not_ours_is_named(database_url: str) -> None:
    for command in (["supervise", "tests.support.handlers:tasks"], ["exporter"]):
        ended = invoke(*command, "--http-host", "192.0.2.1", "--http-port", "0", url=database_url)

        assert "Cannot listen on 192.0.2.1:0: cannot assign requested address; " in ended.stderr
        assert (ended.exit_code, ended.stderr.count("\n")) == MAY_PASS


def test_a_flag_that_cannot_be_used_is_named_as_the_setting_that_it_is() -> None:
    for flag, value in (("--concurrency", "0"), ("--lease", "nan"), ("--http-port", "70000"), ("--log-level", "loud")):
        ended = invoke("supervise", "tests.support.handlers:tasks", flag, value)

        setting = f"PUSHQ_{flag.strip('-').replace('-', '_').upper()}={value}"
        assert f"pushq: {setting} cannot be used: it " in ended.stderr
        assert (ended.exit_code, ended.stderr.count("\n")) == (2, 1)


def test_a_port_that_is_taken_is_named_with_the_remedy(database_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for command in (["supervise", "tests.support.handlers:tasks"], ["exporter"]):
            ended = invoke(*command, "--http-port", str(port), url=database_url)

            assert f"Cannot listen on 127.0.0.1:{port}: address already in use; choose another port" in ended.stderr
            assert (ended.exit_code, ended.stderr.count("\n")) == MAY_PASS


@pytest.mark.parametrize("place", ["app", "app/jobs.py:tasks", "app:", ":tasks", ""])
def test_a_registry_that_is_misnamed_is_told_before_the_database_is_asked(place: str) -> None:
    ended = invoke("supervise", place, url=NOBODY)

    assert "write MODULE:TASKS, for example 'app" in ended.stderr
    assert (ended.exit_code, ended.stderr.count("\n")) == (2, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["enqueue", "x", "--delay", "tomorrow"], "'tomorrow' is not a valid number of seconds."),
        (["enqueue", "x", "--priority", "high"], "'high' is not a valid whole number."),
        (["jobs", "list", "--limit", "all"], "'all' is not a valid whole number."),
    ],
)
def test_a_flag_that_wants_a_number_says_which_kind(arguments: list[str], sentence: str) -> None:
    ended = invoke(*arguments)

    assert sentence in ended.stderr
    assert ended.exit_code == 2


def test_wrong_usage_ends_with_2() -> None:
    for wrong in (["supervise"], ["jobs", "show", "not-an-id"], ["frobnicate"], ["jobs", "list", "--status", "lost"]):
        ended = invoke(*wrong)

        assert ended.exit_code == 2, wrong


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["x", "--payload", "{"], "--payload is not JSON"),
        (["x", "--payload", "[1]"], "--payload is a JSON list, not an object"),
        (["x" * 201], "jobs_task_has_1_to_200_characters"),
        (["x", "--queue", ""], "jobs_queue_has_1_to_200_characters"),
    ],
)
def test_a_job_that_cannot_be_enqueued_is_refused_in_a_sentence(
    database_url: str, arguments: list[str], sentence: str
) -> None:
    ended = invoke("enqueue", *arguments, url=database_url)

    assert sentence in ended.stderr
    assert (ended.exit_code, ended.stderr.count("\n")) == (2, 1)


def test_a_misspelt_command_is_pointed_out_with_the_one_that_was_meant() -> None:
    ended = pushq("supervice")

    assert "Did you mean one of: 'supervise', 'supervisors'?" in ended.stderr
    assert ended.returncode == 2


@pytest.mark.parametrize(
    ("command", "meant"), [("start", "supervise"), ("worker", "supervise"), ("push", "enqueue"), ("init", "migrate")]
)
def test_what_other_queues_call_a_command_is_answered_with_its_name_here(command: str, meant: str) -> None:
    ended = invoke(command, "app.jobs:tasks")

    assert f"No such command '{command}'. Did you mean '{meant}'?" in ended.stderr
    assert ended.exit_code == 2


@pytest.mark.parametrize("command", [["migrate"], ["supervise", "app.jobs:tasks"], ["jobs"], ["enqueue", "x"]])
def test_a_url_among_the_options_is_answered_with_where_it_belongs(command: list[str]) -> None:
    ended = invoke(*command, "--database-url", "postgresql://app:secret@localhost/app")

    assert "No such option '--database-url'. Set PUSHQ_DATABASE_URL: whoever lists processes sees" in ended.stderr
    assert "secret" not in ended.stderr
    assert ended.exit_code == 2


def test_parameters_that_are_for_libpq_do_no_harm(database_url: str) -> None:
    extra = "&channel_binding=require&connect_timeout=5&keepalives_idle=30&gssencmode=disable"
    with supervising(database_url + extra):
        ended = invoke("enqueue", "echo", "--wait", "--json", url=database_url + extra)

    assert (ended.exit_code, '"status": "succeeded"' in ended.stdout) == (0, True)


def test_parameters_of_another_driver_are_left_out_and_named_once(database_url: str) -> None:
    ended = invoke("migrate", "--check", url=f"{database_url}&pool_size=5&max_overflow=3")

    assert "left out of the database URL, since unknown to asyncpg: max_overflow, pool_size. " in ended.stderr
    assert (ended.exit_code, ended.stderr.count("\n")) == (0, 1)


COMMANDS = {
    "": "pushq supervise app.jobs:tasks",
    "migrate": "pushq migrate --check",
    "supervise": "pushq supervise app.jobs:tasks --queue mail",
    "demo": "pushq demo ~/src",
    "enqueue": "pushq enqueue mail.welcome --payload",
    "jobs": "pushq jobs list --status failed",
    "queues": "pushq queues pause mail",
    "exporter": "PUSHQ_HTTP_TOKEN=secret pushq exporter",
    "sweep": "pushq sweep --lease 60",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_every_command_teaches_by_an_example(command: str) -> None:
    shown = invoke(*command.split(), "--help")

    assert f"\n  {COMMANDS[command]}" in shown.output.replace("    ", "  ")
    assert "None" not in shown.output


def test_a_reader_that_goes_away_leaves_no_traceback(database_url: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "wb") as closed:
        ended = subprocess.run(
            [sys.executable, "-m", "pushq", "queues", "list", "--json"],
            env=environment(database_url),
            stdout=closed,
            stderr=subprocess.PIPE,
            text=True,
            timeout=30,
            check=False,
        )
    assert (ended.returncode, ended.stderr) == (0, "")
