"""pushq exporter: the same figures as a supervisor's, without running jobs."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.error import HTTPError

import pytest

from tests.cli.test_roles import RoleUrl, url_as
from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import ROOT, environment, supervising

__all__ = ["url_as"]


@contextmanager
def exporting(url: str, **settings: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A running exporter, and where it serves, without a path."""
    with subprocess.Popen(
        [sys.executable, "-m", "pushq", "exporter", "--http-port", "0"],
        env=environment(url, **settings),
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr
            line = process.stderr.readline()
            place = re.fullmatch(r"(http://\S+)/metrics\n", line)
            assert place, line
            yield process, place[1]
        finally:
            process.kill()


def get(url: str, **headers: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
            return response.status, response.read().decode()
    except HTTPError as error:
        with error:
            return error.code, error.read().decode()


def finished_total(exposition: str) -> list[str]:
    return [line for line in exposition.splitlines() if line.startswith("pushq_jobs_finished_total")]


async def test_it_counts_what_a_supervisor_counts(database_url: str, connection: Connection) -> None:
    with supervising(database_url) as supervisor, exporting(database_url) as (_, place):
        await finished(connection, *await insert(connection, "echo", 3))
        counted = finished_total(get(f"{place}/metrics")[1])
        assert 'pushq_jobs_finished_total{queue="default",status="succeeded",task="echo"} 3.0' in counted
        assert counted == finished_total(supervisor.get("/metrics")[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_that_it_is_well_until_it_is_told_to_end(database_url: str, number: signal.Signals) -> None:
    with exporting(database_url) as (process, place):
        assert get(f"{place}/healthz") == (200, "alive\n")
        assert get(f"{place}/readyz") == (200, "ready\n")
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stderr
        assert "Traceback" not in process.stderr.read()


def test_a_token_guards_the_metrics_only(database_url: str) -> None:
    with exporting(database_url, HTTP_TOKEN="s3cret") as (_, place):
        assert get(f"{place}/healthz")[0] == get(f"{place}/readyz")[0] == 200
        assert get(f"{place}/metrics")[0] == get(f"{place}/metrics", Authorization="Bearer wrong")[0] == 401
        assert get(f"{place}/metrics", Authorization="Bearer s3cret")[0] == 200


def test_an_observer_s_rights_are_enough(url_as: RoleUrl) -> None:
    with exporting(url_as("observer")) as (_, place):
        status, exposition = get(f"{place}/metrics")
        assert status == 200, exposition
        assert "pushq_supervisors 0.0" in exposition
