"""The command: it measures on a given server, says so, and leaves nothing there."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from pushq.bench import bare
from pushq.bench.connection import connected
from pushq.bench.drain import load, rate_since
from pushq.errors import PushqError
from tests.support.commands import invoke
from tests.support.server import Server
from tests.support.supervisors import ROOT, environment
from tests.support.waiting import wait_until

SMALL = ("--rounds", "1", "--scale", "0.02")


async def databases(server: Server, pid: int) -> list[str]:
    """Those that a process has made for its run."""
    connection = await asyncpg.connect(server.url)
    try:
        rows = await connection.fetch("select datname from pg_database where datname like $1", f"pushq_bench_{pid}_%")
    finally:
        await connection.close()
    return [row["datname"] for row in rows]


async def execute(server: Server, statement: str) -> None:
    connection = await asyncpg.connect(server.url)
    await connection.execute(statement)
    await connection.close()


def bench(server: Server, *arguments: str, within: float = 55) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pushq", "bench", *arguments],
        env=environment(server.url, PG_BINDIR=server.bin_directory),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=within,
        check=False,
    )


def test_a_small_run_measures_its_own_limits_and_tells_them_as_json(server: Server, tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"

    ended = bench(server, "drain", "pick-up", *SMALL, "--json", "--record", str(record))

    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    figures = {(figure["scenario"], figure["name"]): figure for figure in told["figures"]}
    tuned = figures["drain", "400 jobs, tuned"]
    assert (tuned["unit"], tuned["limit"]["name"]) == ("jobs/s", "its statements, bare asyncpg")
    assert tuned["ratio"] == pytest.approx(tuned["values"][0] / tuned["limit"]["values"][0])
    assert figures["pick-up", "50/s, commit to handler, p50"][
        "median"
    ]  # below 0 where the inserter hears of its commit after the pool
    assert told["settings"]["fsync"] in {"on", "off"}
    assert told["noise"]["rounds"] == 2
    assert [json.loads(line)["stage"] for line in record.read_text().splitlines()] == ["drain 400", "pick-up"]

    again = bench(server, "drain", "pick-up", *SMALL, "--json", "--record", str(record), "--resume")

    assert json.loads(again.stdout)["figures"] == told["figures"]
    assert json.loads(again.stdout)["noise"]["rounds"] == 0


def test_inserts_are_measured_with_every_trigger(server: Server) -> None:
    ended = bench(server, "insert", *SMALL)

    assert ended.returncode == 0, ended.stderr
    for name in ("an empty trigger", "a trigger that always notifies", "pushq's trigger", "got work"):
        assert name in ended.stdout
    assert "targets met" in ended.stdout


def test_what_sharing_costs_is_measured_in_every_part(server: Server) -> None:
    ended = bench(server, "share", *SMALL, "--json")

    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    figures = {figure["name"]: figure for figure in told["figures"]}
    parts = "unused told, drain failures: successes: pushq.cancel 100 delete_tenant,".split()
    assert {name.split(" ")[0].replace("unused,", "unused") for name in figures} == set(parts)
    assert all(figure["verdict"] for name, figure in figures.items() if name.endswith("p50"))
    assert 0.3 < figures["unused, claim + finish by 100"]["ratio"] < 3
    assert 0 < figures["told, the finish's reply to arrival, p50"]["median"] < 1000
    assert 0 < figures["pushq.cancel to CancelledError, p50"]["median"] < 1000
    assert figures["100 waits: lost"]["verdict"] == "met"
    assert figures["delete_tenant, 100 a step, beside 5,000 of others, max"]["limit"]["median"] > 0


def test_what_retention_by_queue_costs_and_how_soon_webhooks_arrive_is_measured(server: Server) -> None:
    ended = bench(server, "deliver", *SMALL, "--json")

    assert ended.returncode == 0, ended.stderr
    figures = {figure["name"]: figure for figure in json.loads(ended.stdout)["figures"]}
    for name in ("p50", "max"):
        assert figures[f"a step of the purge, beside 20,000 of others, {name}"]["limit"]["median"] > 0
    assert figures["extra CPU a sweep for rules, without one, beside 20,000 of others"]["verdict"]
    assert figures["a webhook, 50/s, beside a receiver that hangs, p99"]["limit"]["median"] > 0
    for name in ("artifacts, written", "artifacts, read", "artifacts, 4 written at once"):
        assert figures[name]["median"] > 0
        assert figures[name]["limit"]["median"] > 0


@pytest.mark.timeout(180)
def test_what_lanes_cost_and_how_soon_freed_units_are_taken_is_measured_in_every_part(server: Server) -> None:
    ended = bench(server, "lanes", *SMALL, "--json", within=170)

    assert ended.returncode == 0, ended.stderr
    figures = {figure["name"]: figure for figure in json.loads(ended.stdout)["figures"]}
    assert figures["unused, claim + finish by 1"]["target"]["bound"] == 0.97
    for kind in ("that do nothing", "of 10 ms"):
        drained = f"200 jobs {kind} over 100 names, 4 x 25 workers"
        assert figures[f"{drained}: over capacity"]["verdict"] == "met"
        assert 0 < figures[drained]["ratio"] < 3
    for taker in ("its own pool", "another pool"):
        assert 0 <= figures[f"a freed unit taken by {taker}, p50"]["median"] < 1000
    for rule in ("a queue's limit, claim + finish", "a queue's limit, finish and follow", "fair, 1,000 tenants"):
        assert any(name.startswith(rule) and figure["verdict"] for name, figure in figures.items())
    for where in ("alone", "beside another's flood"):
        assert figures[f"a lonely tenant's pick-up, {where}, p50: extra"]["verdict"]
    assert figures["a claim that finds nothing among 20 lanes, p50"]["limit"]["median"] > 0
    for function in ("why", "position"):
        for whose in ("the last", "the last of a lane"):
            assert figures[f"{function} of {whose} of 4,000 queued, p50"]["median"] > 0


def test_stopped_it_shows_what_it_has_and_drops_its_databases(server: Server) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "pushq", "bench", "drain", *SMALL, "--rounds", "1000"],
        env=environment(server.url, PG_BINDIR=server.bin_directory),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stderr
        wait_until(lambda: "1/1000" in str(running.stderr.readline()), within=40)  # type: ignore[union-attr]
        assert asyncio.run(databases(server, running.pid))
        running.send_signal(signal.SIGINT)
        said, _ = running.communicate(timeout=20)

    assert running.returncode == 130
    assert "400 jobs, tuned" in said
    assert "The run was stopped" in said
    assert not asyncio.run(databases(server, running.pid))


def test_the_scenarios_are_listed_with_their_times() -> None:
    rows = [json.loads(line) for line in invoke("bench", "--list", "--json").stdout.splitlines()]

    assert [row["scenario"] for row in rows] == (
        "drain pick-up insert history backlog scheduled pinned many scrape lists idle share deliver lanes steps".split()
    )
    assert sum(row["seconds"] for row in rows if row["by default"]) <= 175  # three minutes, with starting and stopping


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["drian"], "There is no scenario 'drian'; did you mean 'drain'?"),
        (["--resume"], "--resume needs a record: name the file with --record FILE."),
    ],
)
def test_a_mistake_is_pointed_out(arguments: list[str], sentence: str) -> None:
    ended = invoke("bench", *arguments)

    assert (ended.exit_code, ended.stderr) == (2, f"pushq: {sentence}\n")


def test_a_role_that_may_not_make_databases_is_told_the_remedy(server: Server) -> None:
    role = f"pushq_bench_role_{os.getpid()}"
    asyncio.run(execute(server, f"create role {role} login password 'secret'"))
    try:
        parts = urlsplit(server.url)
        url = parts._replace(netloc=f"{role}:secret@{parts.netloc.rpartition('@')[2]}").geturl()
        ended = invoke("bench", "drain", *SMALL, url=url, PG_BINDIR=server.bin_directory)
    finally:
        asyncio.run(execute(server, f"drop role {role}"))

    assert ended.exit_code == 2
    assert "give the role CREATEDB, or run with --embedded" in ended.stderr


async def test_the_bare_loop_runs_every_job_once(database_url: str) -> None:
    async with connected(database_url) as connection:
        first, _ = await load(connection, 1_200)
        await bare.drain_with_our_statements(database_url)

        assert await rate_since(connection, first, 1_200) > 0
        with pytest.raises(PushqError, match="Of 1300 jobs 1200 succeeded"):
            await rate_since(connection, first, 1_300)
