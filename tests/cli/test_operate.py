"""enqueue, jobs and queues: what people do by hand, against a supervisor that runs."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from typing import Any
from uuid import UUID, uuid4

import pytest

from pushq.desk import Desk
from tests.support.commands import invoke
from tests.support.jobs import Connection, count, finished, insert, row_of
from tests.support.supervisors import ROOT, environment, supervising
from tests.support.waiting import eventually

LISTED = {
    "id", "task", "queue", "status", "priority", "run_at", "attempt", "failures", "crashes", "max_attempts",
    "unique_key", "tenant_id", "correlation_id", "submitted_by", "enqueued_at", "started_at", "finished_at",
    "supervisor", "pool", "error", "task_is_known", "queue_is_paused", "waits",
    "progress",
}  # fmt: skip
SHOWN = LISTED | {
    "payload",
    "result",
    "traceback",
    "timeout",
    "traceparent",
    "webhook_url",
    "needs",
    "limit_key",
    "affinity",
}


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def listed(url: str, *arguments: str) -> list[dict[str, Any]]:
    ended = invoke(*arguments, "--json", url=url)
    assert ended.exit_code == 0, ended.stderr
    return [json.loads(line) for line in ended.stdout.splitlines()]


async def test_enqueue_prints_the_id_of_the_job_that_it_inserted(database_url: str, connection: Connection) -> None:
    options = ["--queue", "mail", "--priority", "-5", "--delay", "3600", "--unique-key", "once"]
    options += ["--traceparent", TRACEPARENT, "--webhook-url", "https://example.com/hook"]
    ended = invoke("enqueue", "mail.welcome", "--payload", '{"name": "Zoë"}', *options, url=database_url)

    assert ended.exit_code == 0
    row = await row_of(connection, UUID(ended.stdout.strip()))
    assert json.loads(row["payload"]) == {"name": "Zoë"}
    assert (row["task"], row["queue"], row["priority"], row["unique_key"]) == ("mail.welcome", "mail", -5, "once")
    assert (row["traceparent"], row["webhook_url"]) == (TRACEPARENT, "https://example.com/hook")
    assert 3590 < (row["run_at"] - row["enqueued_at"]).total_seconds() < 3610


@pytest.mark.parametrize("header", ["", "00-7-7-01", TRACEPARENT.replace("00-", "ff-", 1), f"{TRACEPARENT}-more"])
async def test_enqueue_refuses_a_malformed_traceparent_and_names_the_rule(
    database_url: str, connection: Connection, header: str
) -> None:
    ended = invoke("enqueue", "echo", "--traceparent", header, url=database_url)

    assert (ended.exit_code, await count(connection)) == (2, 0)
    assert "jobs_traceparent_is_of_w3c_trace_context" in ended.stderr


REGISTERED = """
insert into pushq.tasks (name) values ('mail.welcome'), ('report.build'), ('old.one');
insert into pushq.supervisors (name, host, pid, lease, lease_until, tasks, queues) values
    ('a', '', 1, '30 s', now() + interval '1 h', '{mail.welcome}', '{mail,letters}'),
    ('b', '', 2, '30 s', now() + interval '1 h', '{report.build}', '{default}'),
    ('dead', '', 3, '30 s', now() - interval '1 s', '{old.one}', '{default}');
select pushq.pause('letters');
"""


@pytest.mark.parametrize(
    ("task", "queue", "reason"),
    [
        ("mail.welcome", "mail", None),
        ("report.build", "default", None),
        ("mail.welcome", "letters", "queue 'letters' is paused; `pushq queues resume letters` lets it go on"),
        ("report.bild", "default", "no supervisor has ever known a task 'report.bild'; did you mean 'report.build'?"),
        ("x", "nowhere", "no supervisor has ever known a task 'x'"),
        ("mail.welcome", "default", "the supervisors that know task 'mail.welcome' serve other queues: letters, mail"),
        ("old.one", "default", "no live supervisor knows task 'old.one'"),
    ],
)
async def test_a_job_that_nobody_would_run_is_told_why(
    database_url: str, connection: Connection, task: str, queue: str, reason: str | None
) -> None:
    await connection.execute(REGISTERED)
    async with Desk.opened(database_url) as desk:
        assert await desk.why_it_waits(task, queue) == reason


async def test_where_no_supervisor_is_alive_that_is_told(database_url: str, connection: Connection) -> None:
    await connection.execute("insert into pushq.tasks (name) values ('known')")
    async with Desk.opened(database_url) as desk:
        assert await desk.why_it_waits("known", "default") == "no supervisor is alive"


async def test_a_look_that_fails_does_not_hide_that_the_job_was_inserted(
    database_url: str, connection: Connection
) -> None:
    async with connection.transaction():
        await connection.execute("lock table pushq.supervisors")
        async with Desk.opened(database_url) as desk:
            assert await desk.why_it_waits("echo", "default") is None


async def test_enqueue_inserts_all_the_same_and_says_why_the_job_waits(
    database_url: str, connection: Connection
) -> None:
    await connection.execute(REGISTERED)
    ended = invoke("enqueue", "report.bild", "--json", url=database_url)

    assert ended.stderr == (
        "pushq: The job is queued, and waits: no supervisor has ever known a task 'report.bild'; "
        "did you mean 'report.build'?\n"
    )
    assert ended.exit_code == 0
    assert (await row_of(connection, UUID(json.loads(ended.stdout)["id"])))["status"] == "queued"


async def test_enqueue_reads_the_payload_from_standard_input(database_url: str, connection: Connection) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "pushq", "enqueue", "echo", "--payload", "-", "--json"],
        input='{"lines": "a\\nb"}\n',
        env=environment(database_url),
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    row = await row_of(connection, UUID(json.loads(ended.stdout)["id"]))
    assert json.loads(row["payload"]) == {"lines": "a\nb"}


async def test_a_unique_key_that_is_taken_is_said_and_nothing_is_inserted(
    database_url: str, connection: Connection
) -> None:
    await insert(connection, "echo", unique_key="once")
    ended = invoke("enqueue", "echo", "--unique-key", "once", url=database_url)

    assert ended.stderr == "pushq: An unfinished job has the unique key 'once'; nothing was inserted.\n"
    assert (ended.exit_code, ended.stdout, await count(connection)) == (2, "", 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--payload", '{"a": NaN}'], "is not JSON"),
        (["--payload", '{"a": 1e400}'], "is not JSON"),
        (["--payload", '{"a": "\\u0000"}'], "has text with a NUL character, which jsonb does not take"),
        (["--payload", '{"a": "\\ud800"}'], "has text with a lone surrogate"),
        (["--queue", "q" * 201], "jobs_queue_has_1_to_200_characters"),
        (["--unique-key", ""], "jobs_unique_key_has_1_to_200_characters"),
        (["--unique-key", "\udcff"], "A job's unique_key has a lone surrogate, which PostgreSQL does not take"),
    ],
)
def test_a_value_that_cannot_be_stored_is_refused_in_a_sentence(
    database_url: str, arguments: list[str], sentence: str
) -> None:
    ended = invoke("enqueue", "echo", *arguments, url=database_url)

    assert sentence in ended.stderr
    assert (ended.exit_code, ended.stdout, ended.stderr.count("\n")) == (2, "", 1)


def test_a_delay_that_is_not_a_number_is_wrong_usage() -> None:
    ended = invoke("enqueue", "echo", "--delay", "nan")

    assert "Invalid value for '--delay'" in ended.stderr
    assert ended.exit_code == 2


def test_waiting_ends_with_the_job_and_tells_by_the_exit_code_what_came_of_it(database_url: str) -> None:
    with supervising(database_url):
        succeeded = invoke("enqueue", "echo", "--payload", '{"a": 1}', "--wait", url=database_url)
        failed = invoke("enqueue", "fail", "--wait", "--json", url=database_url)

    assert succeeded.exit_code == 0
    assert "status          succeeded\n" in succeeded.stdout
    assert 'result          {"a": 1}\n' in succeeded.stdout
    assert failed.exit_code == 1
    row = json.loads(failed.stdout)
    assert set(row) == SHOWN
    assert (row["status"], row["failures"], row["error"]) == ("failed", 3, "ValueError: no")


async def test_ctrl_c_stops_the_waiting_and_not_the_job(database_url: str, connection: Connection) -> None:
    waiting = subprocess.Popen(  # noqa: ASYNC220 - a test's loop has nothing else to do
        [sys.executable, "-m", "pushq", "enqueue", "unheard.of", "--wait"],
        env=environment(database_url),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert waiting.stderr
    assert "waits: no supervisor has ever known a task 'unheard.of'." in waiting.stderr.readline()
    waiting.send_signal(signal.SIGINT)
    output, errors = waiting.communicate(timeout=20)

    assert (waiting.returncode, output, "Traceback" in errors) == (1, "", False)
    job_id = await connection.fetchval("select id from pushq.jobs where status = 'queued'")
    assert f"No longer waiting for job {job_id}" in errors


async def test_jobs_are_listed_newest_first_and_filtered(database_url: str, connection: Connection) -> None:
    for task, queue in [("one", "a"), ("two", "a"), ("two", "b")]:
        await insert(connection, task, queue=queue)
    await connection.execute("insert into pushq.tasks (name) values ('one')")
    [cancelled] = await insert(connection, "three", queue="c")
    await connection.execute("select pushq.cancel($1)", cancelled)

    everything = listed(database_url, "jobs", "list")
    assert [job["task"] for job in everything] == ["three", "two", "two", "one"]
    assert set(everything[0]) == LISTED
    assert [job["queue"] for job in listed(database_url, "jobs", "list", "--task", "two")] == ["b", "a"]
    assert [job["task"] for job in listed(database_url, "jobs", "list", "--queue", "a", "--task", "two")] == ["two"]
    assert [job["task"] for job in listed(database_url, "jobs", "list", "--status", "cancelled")] == ["three"]
    assert [job["queue"] for job in listed(database_url, "jobs", "list", "--unknown")] == ["b", "a"]
    assert [job["task"] for job in listed(database_url, "jobs", "list", "--limit", "1")] == ["three"]
    assert listed(database_url, "jobs", "list", "--queue", "nowhere") == []
    assert invoke("jobs", "list", "--queue", "nowhere", url=database_url).stderr == "No jobs match.\n"


async def test_a_group_by_itself_lists_with_the_options_of_its_list(database_url: str, connection: Connection) -> None:
    await insert(connection, "one", queue="a")
    await insert(connection, "two", queue="b")

    assert listed(database_url, "jobs") == listed(database_url, "jobs", "list")
    assert [row["queue"] for row in listed(database_url, "queues")] == ["a", "b"]
    assert [job["task"] for job in listed(database_url, "jobs", "--task", "two")] == ["two"]
    assert "retry" in invoke("jobs", "--help").output


async def test_a_job_that_waits_for_more_than_its_time_says_why(database_url: str, connection: Connection) -> None:
    await insert(connection, "nobody.knows")
    await connection.execute("insert into pushq.tasks (name) values ('known')")
    await insert(connection, "known", queue="stopped")
    await connection.execute("select pushq.pause('stopped')")

    paused, unknown = invoke("jobs", url=database_url).stdout.splitlines()[1:]
    assert paused.endswith("waits: queue 'stopped' is paused; `pushq queues resume stopped` lets it go on")
    assert unknown.endswith("waits: no supervisor has ever known a task 'nobody.knows'")


async def test_a_job_is_shown_whole(database_url: str, connection: Connection) -> None:
    [job_id] = await insert(connection, "echo", payload={"a": [1, 2]})

    [row] = listed(database_url, "jobs", "show", str(job_id))
    assert set(row) == SHOWN | {"artifacts", "events"}
    assert (row["id"], row["payload"], row["result"]) == (str(job_id), '{"a": [1, 2]}', None)
    shown = invoke("jobs", "show", str(job_id), url=database_url).stdout
    assert 'payload         {"a": [1, 2]}\n' in shown


async def test_jobs_are_cancelled_and_retried(database_url: str, connection: Connection) -> None:
    with supervising(database_url):
        [waits] = await insert(connection, "unheard.of")
        assert listed(database_url, "jobs", "cancel", str(waits)) == [{"id": str(waits), "did": "cancelled"}]
        assert (await row_of(connection, waits))["status"] == "cancelled"

        [fails] = await insert(connection, "fail")
        await finished(connection, fails)
        assert listed(database_url, "jobs", "retry", str(fails)) == [{"id": str(fails), "did": "queued"}]
        [row] = await finished(connection, fails)
        assert (row["status"], row["attempt"], row["failures"]) == ("failed", 6, 3)


async def test_what_could_not_be_done_to_a_job_is_said_with_exit_code_1(
    database_url: str, connection: Connection
) -> None:
    [job_id] = await insert(connection, "echo")
    nobody = str(uuid4())
    ended = invoke("jobs", "cancel", str(job_id), str(job_id), nobody, "--json", url=database_url)

    assert [json.loads(line)["did"] for line in ended.stdout.splitlines()] == [
        "cancelled", "already cancelled", "unknown",
    ]  # fmt: skip
    assert (ended.exit_code, ended.stderr) == (1, "")


def test_an_id_that_no_job_has_is_named(database_url: str) -> None:
    nobody = str(uuid4())
    ended = invoke("jobs", "show", nobody, url=database_url)

    assert ended.stderr == f"pushq: There is no job {nobody}; it may have been dropped after its retention.\n"
    assert ended.exit_code == 2


async def test_what_rows_hold_cannot_forge_a_line_or_move_the_cursor(database_url: str, connection: Connection) -> None:
    hostile = "x\x1b[2J\n\r\x9b31m\u2028\u202eforged  succeeded"
    [job_id] = await insert(connection, hostile, queue="q\nq", payload={"a": hostile})
    await connection.execute("update pushq.jobs_unfinished set error = $1", hostile)
    commands = [["jobs"], ["jobs", "show", str(job_id)], ["queues"]]

    for command in [*commands, *([*command, "--json"] for command in [["jobs", "list"], *commands[1:2]])]:
        ended = invoke(*command, url=database_url)
        assert ended.exit_code == 0, ended.stderr
        assert not set(ended.stdout) & {"\x1b", "\r", "\x9b", "\u2028", "\u202e"}, command
        assert not any(line.startswith("forged") for line in ended.stdout.splitlines())
    assert len(invoke("jobs", url=database_url).stdout.splitlines()) == 2


async def test_a_terminal_of_another_encoding_gets_what_it_can_show(database_url: str, connection: Connection) -> None:
    await insert(connection, "почта")
    ended = subprocess.run(
        [sys.executable, "-m", "pushq", "jobs"],
        env=environment(database_url) | {"PYTHONIOENCODING": "latin-1"},
        cwd=ROOT,
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, rb"\u043f\u043e\u0447\u0442\u0430" in ended.stdout) == (0, True), ended.stderr


async def test_a_paused_queue_waits_until_it_is_resumed(database_url: str, connection: Connection) -> None:
    with supervising(database_url, "--queue", "mail", "--queue", "default"):
        assert listed(database_url, "queues", "pause", "mail") == [{"queue": "mail", "did": "paused"}]
        assert listed(database_url, "queues", "pause", "mail") == [{"queue": "mail", "did": "already paused"}]
        [waits] = await insert(connection, "echo", queue="mail")
        await finished(connection, *await insert(connection, "echo"))

        [mail] = [queue for queue in listed(database_url, "queues", "list") if queue["queue"] == "mail"]
        assert mail["oldest_seconds"] >= 0
        assert mail | {"oldest_seconds": 0} == {
            "queue": "mail", "queued": 1, "running": 0, "oldest_seconds": 0, "served": True, "paused": True,
            "is_exact": True, "all_events": False, "keep": None, "keep_failed": None,
        }  # fmt: skip
        assert listed(database_url, "queues", "resume", "mail") == [{"queue": "mail", "did": "resumed"}]
        await finished(connection, waits)
    assert listed(database_url, "queues", "resume", "mail") == [{"queue": "mail", "did": "not paused"}]


async def test_a_queue_is_served_while_a_supervisor_lives_that_serves_it(
    database_url: str, connection: Connection
) -> None:
    await insert(connection, "echo", queue="misspelt")
    with supervising(database_url, "--queue", "mail") as supervisor:
        assert served(database_url) == {"mail": True, "misspelt": False}
        supervisor.kill_all()
        await connection.execute("update pushq.supervisors set lease_until = now()")
        assert served(database_url) == {"mail": False, "misspelt": False}
    with supervising(database_url, "--queue", "other"):
        assert served(database_url) == {"mail": False, "misspelt": False, "other": True}


def served(url: str) -> dict[str, bool]:
    return {queue["queue"]: queue["served"] for queue in listed(url, "queues", "list")}


async def test_all_queues_wait_until_they_are_resumed_also_those_that_nobody_knows_yet(
    database_url: str, connection: Connection
) -> None:
    """As in a copy of a database, whose jobs are the original's. The bell alone tells that they may run."""
    assert listed(database_url, "queues", "pause", "--all") == [{"queue": "*", "did": "paused"}]
    assert listed(database_url, "queues", "pause", "mail") == [{"queue": "mail", "did": "paused"}]
    jobs = [job for queue in ("default", "new", "*") for job in await insert(connection, "echo", queue=queue)]
    [suspect] = await insert(connection, "echo", queue="new")
    await connection.execute("update pushq.jobs_unfinished set crashes = 2 where id = $1", suspect)
    [mail] = await insert(connection, "echo", queue="mail")

    queues = [flag for queue in ("default", "new", "*", "mail") for flag in ("--queue", queue)]
    with supervising(database_url, *queues, POLL_INTERVAL="0"):
        idle = "select pg_sequence_last_value(pushq.gate(queue)) > pushq.gate_clock() from unnest($1::text[]) as queue"
        await eventually(lambda: connection.fetchval(idle, ["new"]))
        assert await connection.fetchval("select count(*) from pushq.jobs where attempt = 0") == 5
        assert {queue["paused"] for queue in listed(database_url, "queues", "list")} == {True}
        said = invoke("jobs", url=database_url).stdout
        assert said.count("waits: all queues are paused; `pushq queues resume --all` lets them go on") == 5

        resumed = listed(database_url, "queues", "resume", "--all")
        assert resumed == [{"queue": "*", "did": "resumed"}, {"queue": "mail", "did": "still paused"}]
        await finished(connection, *jobs, suspect)
        assert (await row_of(connection, mail))["attempt"] == 0


def test_how_long_a_queue_s_jobs_are_kept_is_chosen_and_shown(database_url: str) -> None:
    keep = ("queues", "keep")
    assert listed(database_url, *keep, "mail", "news", "--for", "2h", "--failed", "30d") == [
        {"queue": queue, "did": "changed", "keep": "02:00:00", "keep_failed": "30 days"} for queue in ("mail", "news")
    ]
    for did in ("changed", "as before"):
        (rule,) = listed(database_url, *keep, "mail", "--for", "0")
        assert rule == {"queue": "mail", "did": did, "keep": "00:00:00", "keep_failed": None}
    (rule,) = listed(database_url, *keep, "--all", "--failed", "90d")
    assert rule == {"queue": "*", "did": "changed", "keep": None, "keep_failed": "90 days"}
    shown = {queue["queue"]: (queue["keep"], queue["keep_failed"]) for queue in listed(database_url, "queues", "list")}
    assert shown == {"*": (None, "90 days"), "mail": ("00:00:00", None), "news": ("02:00:00", "30 days")}
    assert "02:00:00  30 days" in invoke("queues", url=database_url).stdout

    for queues, queue in (("mail", "mail"), ("--all", "*")):
        (rule,) = listed(database_url, *keep, queues, "--default")
        assert rule == {"queue": queue, "did": "by default", "keep": None, "keep_failed": None}
    assert {queue["queue"] for queue in listed(database_url, "queues", "list")} == {"mail", "news"}


@pytest.mark.parametrize("minutes", ["3m", "3M"])
def test_a_rule_in_words_that_may_be_misread_is_shown_as_it_was_understood(database_url: str, minutes: str) -> None:
    ended = invoke("queues", "keep", "mail", "--for", minutes, url=database_url)
    assert ended.stdout.split() == "queue did keep keep_failed mail changed 00:03:00 -".split()


@pytest.mark.parametrize(
    ("arguments", "exit_code", "says"),
    [
        (["--for", "2h"], 2, "Name queues, or give --all."),
        (["mail", "--all", "--for", "2h"], 2, "Name queues or give --all, not both."),
        (["mail"], 2, "Give --for, --failed or both; or --default alone."),
        (["mail", "--for", "2h", "--default"], 2, "Give --for, --failed or both; or --default alone."),
        (["mail", "--for=-2h"], 2, "a time to keep jobs is 0 or more, not -02:00:00"),
        (["mail", "--for", "soon"], 2, "'soon' is not a time that PostgreSQL knows; write 50ms, 90s, 2h or 30d."),
    ],
)
async def test_a_rule_that_is_unclear_is_refused_in_a_sentence(
    connection: Connection, database_url: str, arguments: list[str], exit_code: int, says: str
) -> None:
    ended = invoke("queues", "keep", *arguments, url=database_url)
    assert (ended.exit_code, ended.stdout) == (exit_code, "")
    assert says in ended.stderr
    assert await connection.fetchval("select count(*) from pushq.queues") == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [([], "Name queues, or give --all."), (["mail", "--all"], "Name queues or give --all, not both.")],
)
def test_which_queues_to_pause_must_be_said(arguments: list[str], says: str) -> None:
    for verb in ("pause", "resume"):
        ended = invoke("queues", verb, *arguments)
        assert ended.exit_code == 2
        assert says in ended.stderr


async def test_a_wait_that_the_database_ends_tells_why_in_a_sentence(connection: Connection, database_url: str) -> None:
    with subprocess.Popen(  # noqa: ASYNC220 - a test's loop has nothing else to do
        [sys.executable, "-m", "pushq", "enqueue", "unheard.of", "--wait"],
        env=environment(database_url),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as waiting:
        await eventually(lambda: connection.fetchval("select count(*) from pushq.jobs where waiters is not null"))
        await connection.execute(
            "alter table pushq.jobs rename column result to renamed; select pg_terminate_backend(pid) "
            "from pg_stat_activity where application_name ~ '^pushq' and datname = current_database()"
        )
        _, said = await asyncio.to_thread(waiting.communicate, timeout=20)

    assert waiting.returncode == 1
    assert "which goes on" in said
    assert "rolled a statement back (42703)" in said
    assert "Traceback" not in said
