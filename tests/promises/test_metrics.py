"""Guarantee 11: /metrics is bounded, its counters never fall and equal a count of the rows, whoever is asked."""

from __future__ import annotations

import asyncio
import re
import signal
from contextlib import ExitStack
from importlib.metadata import version

import asyncpg
from prometheus_client.parser import text_string_to_metric_families

from pushq.exporter.metrics import _histogram
from tests.cli.test_exporter import exporting, get
from tests.support.databases import until_alone
from tests.support.jobs import Connection, count, finished, has_count, insert
from tests.support.metrics import scrape
from tests.support.proxy import proxied
from tests.support.supervisors import RunningSupervisor, supervising
from tests.support.waiting import eventually, wait_until

NAMES = """
    pushq_jobs pushq_jobs_finished_total pushq_job_run_seconds pushq_job_wait_seconds pushq_queue_oldest_seconds
    pushq_job_retries_total pushq_jobs_requeued_total pushq_supervisors pushq_workers pushq_wakeups_total
    pushq_notifications_received_total pushq_listener_up pushq_pools pushq_database_up
    pushq_running_oldest_seconds pushq_build_info process_resident_memory_bytes process_cpu_seconds_total
""".split()


def counters(supervisor: RunningSupervisor) -> dict[str, float]:
    """Every counter's sample that the table feeds."""
    local = ("pushq_wakeups", "pushq_notifications", "process_", "python_")
    return {
        f"{sample.name}{sorted(sample.labels.items())}": sample.value
        for family in text_string_to_metric_families(supervisor.get("/metrics")[1])
        if family.type in ("counter", "histogram") and not family.name.startswith(local)
        for sample in family.samples
    }


async def test_every_name_is_there_from_the_first_scrape(database_url: str) -> None:
    with supervising(database_url) as supervisor:
        _, text = supervisor.get("/metrics")

    for name in NAMES:
        assert re.search(rf"^# TYPE {name}(?:$| )", text, re.MULTILINE), name


async def test_the_counters_equal_a_count_of_the_rows_and_are_the_same_from_everybody(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url) as one, supervising(database_url) as other:
        await insert(connection, "echo", 40)
        await insert(connection, "fail", 3)
        await insert(connection, "cancel", 2)
        (queued,) = await insert(connection, "echo", queue="nowhere")
        await connection.fetchval("select pushq.cancel($1)", queued)
        await has_count(connection, 46, "finished_on < 'infinity'")

        for status in ("succeeded", "failed", "cancelled"):
            rows = await count(connection, f"status = '{status}'")
            assert rows == scrape(one, "pushq_jobs_finished_total", status=status)
        assert await count(connection, "started_at is not null") == scrape(one, "pushq_job_run_seconds_count")
        assert scrape(one, "pushq_job_retries_total", task="fail") == 6
        assert scrape(one, "pushq_jobs_finished_total", queue="_other") == 1
        assert scrape(one, "pushq_supervisors") == 2
        assert counters(one) == counters(other)


def test_a_sum_is_the_same_in_whatever_order_its_parts_are_added() -> None:
    def exposed(*seconds: float) -> str:
        return _histogram("sum", "", [1.0], "run", [{"run_buckets": [0], "run_jobs": [3], "run_seconds": sum(seconds)}])

    assert exposed(0.1, 0.2, 0.3) == exposed(0.3, 0.2, 0.1)


async def test_the_counters_do_not_change_when_rows_are_folded_or_dropped_or_a_supervisor_restarts(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url) as supervisor:
        await finished(connection, *await insert(connection, "echo", 30))
        before = counters(supervisor)
        wait_until(lambda: counters(supervisor) == before)
        await _folded(connection)
        assert counters(supervisor) == before
        supervisor.stop()

    await _age_all_days(connection)
    with supervising(database_url, RETENTION="1") as supervisor:
        await has_count(connection, 0, "true")
        assert counters(supervisor) == before


async def _folded(connection: Connection) -> None:
    async def look() -> bool:
        return bool(await connection.fetchval("select count(*) from pushq.tally_log") == 0)

    await eventually(look)


async def _age_all_days(connection: Connection) -> None:
    """Moves today's finished rows to a day long past, with its partition."""
    await connection.execute(
        """
        create table pushq.jobs_2020_01_01 (like pushq.jobs including defaults including constraints);
        alter table pushq.jobs attach partition pushq.jobs_2020_01_01 for values from ('2020-01-01') to ('2020-01-02');
        insert into pushq.days (day) values ('2020-01-01');
        with moved as (delete from pushq.jobs where finished_on < 'infinity' returning *)
        insert into pushq.jobs_2020_01_01
        select (jsonb_populate_record(null::pushq.jobs, to_jsonb(moved) || '{"finished_on": "2020-01-01"}')).*
        from moved;
        """
    )


async def test_jobs_that_the_sweeper_failed_or_requeued_are_counted(database_url: str, connection: Connection) -> None:
    with supervising(database_url) as supervisor:
        await finished(connection, *await insert(connection, "die"), within=40)
        assert scrape(supervisor, "pushq_jobs_finished_total", task="die", status="failed") == 1
        assert scrape(supervisor, "pushq_jobs_requeued_total", task="die") == 2


async def test_tasks_and_queues_that_nobody_knows_make_no_labels(database_url: str, connection: Connection) -> None:
    with supervising(database_url) as supervisor:
        before = lines(supervisor)
        await connection.execute(
            "insert into pushq.jobs (task, queue) select 'task' || n, 'queue' || n from generate_series(1, 500) as n"
        )
        await _time_for_a_census(connection)
        wait_until(lambda: scrape(supervisor, "pushq_jobs", queue="_other", status="queued") == 500)
        await connection.execute("select pushq.cancel(id) from pushq.jobs_unfinished")
        assert scrape(supervisor, "pushq_jobs_finished_total", queue="_other", task="_other", status="cancelled") == 500
        assert lines(supervisor) == before + len(("queued", "running", "oldest"))


def lines(supervisor: RunningSupervisor) -> int:
    return len(supervisor.get("/metrics")[1].splitlines())


async def test_the_oldest_due_job_and_the_unfinished_ones_are_shown(database_url: str, connection: Connection) -> None:
    await insert(connection, "unheard.of", 3)
    await connection.execute(
        "update pushq.jobs_unfinished set run_at = '2000-01-01', enqueued_at = now() - interval '1 hour'"
    )
    with supervising(database_url) as supervisor:
        await _time_for_a_census(connection)
        wait_until(lambda: scrape(supervisor, "pushq_jobs", queue="default", status="queued") == 3)
        assert 3600 <= scrape(supervisor, "pushq_queue_oldest_seconds", queue="default") < 3700


async def test_a_job_that_is_stuck_shows_its_age_and_the_build_its_version(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url, SWEEP_INTERVAL="0.2") as supervisor:
        await insert(connection, "sleep", payload={"seconds": 60})
        await has_count(connection, 1, "status = 'running'")
        await connection.execute("update pushq.jobs_unfinished set started_at = now() - interval '2 h'")
        await _time_for_a_census(connection)
        labels = {"queue": "default", "task": "sleep"}
        wait_until(lambda: 7200 <= scrape(supervisor, "pushq_running_oldest_seconds", **labels) < 7300)
        assert scrape(supervisor, "pushq_build_info", version=version("pushq-pg")) == 1
        assert scrape(supervisor, "process_resident_memory_bytes") > 1e7

        await connection.execute("select pushq.cancel(id) from pushq.jobs where status = 'running'")
        await _time_for_a_census(connection)
        wait_until(lambda: "pushq_running_oldest_seconds{" not in supervisor.get("/metrics")[1])


async def test_a_scrape_reads_no_job(database_url: str, connection: Connection) -> None:
    """By the exporter, which counts no census meanwhile and scrapes as a supervisor does. What a session has read is
    told when it ends.
    """
    await insert(connection, "echo", 100)
    before = await _reads_of_jobs(connection)
    with exporting(database_url) as (exporter, place):
        for _ in range(50):
            status, text = get(f"{place}/metrics")
            assert status == 200
            assert "pushq_jobs_finished_total" in text
        exporter.send_signal(signal.SIGTERM)
        assert exporter.wait(10) == 0
    await until_alone(connection)
    after = await _reads_of_jobs(connection)
    reader = await asyncpg.connect(database_url)
    await count(reader)
    await reader.close()
    await until_alone(connection)

    assert after == before
    assert await _reads_of_jobs(connection) > before  # else nobody would have noticed


async def _reads_of_jobs(connection: Connection) -> tuple[int, int]:
    """How often each of its tables and their indexes have been scanned, all together, and rows read from them."""
    row = await connection.fetchrow(
        "select sum(seq_scan + coalesce(idx_scan, 0))::int, sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::int "
        "from pg_stat_user_tables, pg_stat_force_next_flush() where schemaname = 'pushq' and relname like 'jobs%'"
    )
    assert row
    return row[0], row[1]


async def test_while_the_database_does_not_answer_the_metrics_say_so_and_tell_of_the_process_alone(
    database_url: str,
) -> None:
    async with proxied(database_url) as proxy:
        with ExitStack() as stack:
            process, place = await asyncio.to_thread(stack.enter_context, exporting(proxy.url))

            async def scraped() -> dict[str, float]:
                """Samples by name; and every name is there."""
                status, text = await asyncio.to_thread(get, f"{place}/metrics")
                assert status == 200
                assert {name for name in NAMES if f"# TYPE {name} " not in text} == set()
                samples = re.findall(r"^(?!process_)(\w+)\S* (\S+)$", text, re.MULTILINE)
                return {name: float(value) for name, value in samples}

            sound = await scraped()
            proxy.is_silent = True
            away = await scraped()
            proxy.is_silent = False
            back = await scraped()
            process.send_signal(signal.SIGTERM)
            _, said = await asyncio.to_thread(process.communicate, timeout=10)

    of_process = {"pushq_workers", "pushq_wakeups_total", "pushq_notifications_received_total"}
    of_process |= {"pushq_pools", "pushq_listener_up", "pushq_database_up", "pushq_build_info"}
    of_process |= {"pushq_jobs_purged_total"}
    assert (sound["pushq_database_up"], away["pushq_database_up"]) == (1, 0)
    assert away.keys() == of_process
    assert back == sound
    assert re.findall(r"chore (\w+) chore=scrape", said) == ["failed", "done"]


async def _time_for_a_census(connection: Connection) -> None:
    await connection.execute("update pushq.census_clock set taken_at = '-infinity'")


async def test_openmetrics_is_served_when_asked_for_and_a_token_guards_metrics_only(database_url: str) -> None:
    with supervising(database_url, HTTP_TOKEN="secret") as supervisor:
        assert supervisor.get("/metrics")[0] == 401
        assert supervisor.get("/healthz")[0] == 200
        status, text = supervisor.get(
            "/metrics", Authorization="Bearer secret", Accept="application/openmetrics-text; version=1.0.0"
        )

    assert status == 200
    assert text.endswith("# EOF\n")
