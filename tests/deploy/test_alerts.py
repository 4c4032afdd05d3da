"""deploy/alerts.yml: each alert fires when it should and is silent otherwise, as Prometheus's own judge has it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cli.test_exporter import exporting, get
from tests.support.jobs import Connection, finished, insert
from tests.support.promtool import promtool
from tests.support.proxy import proxied
from tests.support.supervisors import ROOT, supervising

DEPLOY = ROOT / "deploy"
ALERTS = re.findall(r"alert: (\w+)", (DEPLOY / "alerts.yml").read_text())

pytestmark = pytest.mark.timeout(300)  # promtool may have to be fetched first

BOTH = ("a", "b")
"""Two supervisors' targets."""
OF_THE_TABLE = {
    "pushq_supervisors{instance}": "2x60",
    'pushq_queue_oldest_seconds{instance,queue="mail"}': "0x60",
    'pushq_jobs_finished_total{instance,queue="mail",status="succeeded",task="welcome"}': "1000+60x60",
    'pushq_jobs_finished_total{instance,queue="mail",status="failed",task="welcome"}': "7x60",
    'pushq_jobs_finished_total{instance,queue="mail",status="succeeded",task="new"}': "0x60",
    'pushq_jobs_finished_total{instance,queue="mail",status="failed",task="new"}': "0x60",
    'pushq_jobs_requeued_total{instance,queue="mail",task="welcome"}': "3x60",
}
SOUND = {
    'up{instance,job="pushq"}': "1x60",
    "pushq_database_up{instance}": "1x60",
    "pushq_pools{instance}": "2x60",
    "pushq_listener_up{instance}": "2x60",
} | OF_THE_TABLE
"""Sixty minutes of a system that is well, an entry a series of each target."""


def level(values: str) -> str:
    """With what a series begins."""
    return re.split(r"[+x]", values)[0]


def with_hole(series: Mapping[str, str]) -> dict[str, str]:
    """From minute 10 to 25 there is nothing."""
    return {name: f"{level(values)}x9 stale _x14 {level(values)}x40" for name, values in series.items()}


def failed(task: str = "new") -> str:
    return f'pushq_jobs_finished_total{{instance,queue="mail",status="failed",task="{task}"}}'


def ending(series: Mapping[str, str]) -> dict[str, str]:
    """At minute 10, as they do for Prometheus when a scrape fails or tells no more of them."""
    return {name: f"{values.removesuffix('x60')}x9 stale" for name, values in series.items()}


@dataclass(frozen=True)
class Case:
    """At a minute, what fires. changed: series in place of the sound ones, of both targets or of one: ('a', name)."""

    name: str
    at: int
    fires: frozenset[str] = frozenset()
    changed: Mapping[str | tuple[str, str], str] = field(default_factory=dict)

    @property
    def series(self) -> dict[str, str]:
        both = {(target, name): values for name, values in SOUND.items() for target in BOTH}
        for name, values in self.changed.items():
            both |= {name: values} if isinstance(name, tuple) else {(target, name): values for target in BOTH}
        return {
            name.replace("instance", f'instance="{target}"'): values
            for (target, name), values in both.items()
            if values
        }


def case(name: str, at: int, fires: str, changed: Mapping[Any, str]) -> Case:
    return Case(name, at, frozenset(fires.split()), changed)


def of(target: str, series: Mapping[str, str]) -> dict[tuple[str, str], str]:
    return {(target, name): values for name, values in series.items()}


NOBODY = dict.fromkeys(SOUND, "")
AWAY = ending(OF_THE_TABLE) | {"pushq_database_up{instance}": "1x9 0x50"}
GONE = ending(SOUND) | {'up{instance,job="pushq"}': "1x9 0x50"}
NEW_PAIR = {
    'pushq_jobs_finished_total{instance,queue="bulk",status="succeeded",task="new"}': "_x20 0x40",
    'pushq_jobs_finished_total{instance,queue="bulk",status="failed",task="new"}': "_x20 50x40",
}
RUNNING = 'pushq_running_oldest_seconds{instance,queue="mail",task="welcome"}'
CASES = [
    case("all is well", 30, "", {}),
    case("the database is away", 12, "PushqDatabaseIsAway", AWAY),
    case("the database is away for long", 40, "PushqDatabaseIsAway", AWAY),
    case("a scrape found no database, the next one did", 11, "", {"pushq_database_up{instance}": "1x9 0 1x50"}),
    case(
        "one supervisor of two gets no answer from the database",
        20,
        "PushqDatabaseIsAway",
        of("a", AWAY) | of("b", {"pushq_supervisors{instance}": "2x9 1x50"}),
    ),
    case("every supervisor has ended", 13, "PushqNoSupervisor", GONE),
    case("every supervisor has ended long ago", 30, "PushqNoSupervisor PushqIsNotScraped", GONE),
    case("nobody was ever scraped", 5, "PushqNoSupervisor", NOBODY),
    case(
        "every supervisor has ended, and an exporter says so",
        13,
        "PushqNoSupervisor",
        of("a", GONE)
        | of("b", {"pushq_supervisors{instance}": "2x9 0x50", "pushq_pools{instance}": "0x60"})
        | of("b", {"pushq_listener_up{instance}": "0x60"}),
    ),
    case(
        "supervisors are replaced, and none lives for a minute", 12, "", {"pushq_supervisors{instance}": "2x9 0 2x50"}
    ),
    case(
        "one supervisor of two has ended",
        20,
        "PushqIsNotScraped",
        of("a", GONE) | of("b", {"pushq_supervisors{instance}": "2x9 1x50"}),
    ),
    case("a scrape failed", 11, "", {("a", 'up{instance,job="pushq"}'): "1x9 0 1x50"}),
    case("a due job waits", 30, "PushqQueueIsLate", {'pushq_queue_oldest_seconds{instance,queue="mail"}': "0+60x60"}),
    case("due jobs wait for some minutes", 30, "", {'pushq_queue_oldest_seconds{instance,queue="mail"}': "240x60"}),
    case("a job has run for more than an hour", 30, "PushqJobIsStuck", {RUNNING: "3500+60x60"}),
    case("a job runs for half an hour", 40, "", {RUNNING: "0+60x30 _x30"}),
    case("a task's first jobs fail", 28, "PushqJobsFail", {failed(): "0x20 50x40"}),
    case("a task's first jobs failed an hour ago", 58, "", {failed(): "0x20 50x40"}),
    case("the first jobs of a pair of queue and task fail, and it has labels since", 28, "PushqJobsFail", NEW_PAIR),
    case("one that had labels since an hour ago", 58, "", NEW_PAIR),
    case("a fifth of the jobs fail", 30, "PushqJobsFail", {failed("welcome"): "0+15x60"}),
    case("one in twenty jobs fails", 30, "", {failed("welcome"): "0+3x60"}),
    case("Prometheus is new, and what has failed did so before", 12, "", {failed(): "50x60"}),
    case("Prometheus comes back, and what has failed did so before", 40, "", with_hole(SOUND | {failed(): "50x60"})),
    case("the database was away, and is back", 40, "", with_hole(OF_THE_TABLE | {failed(): "50x60"})),
    case("a supervisor was started anew", 25, "", {("a", name): f"_x15 {v}" for name, v in SOUND.items()}),
    case(
        "a job kills each process that runs it",
        22,
        "PushqProcessesDie",
        {'pushq_jobs_requeued_total{instance,queue="mail",task="welcome"}': "3x20 5x40"},
    ),
    case(
        "the first jobs of a pair lose their processes, and it has labels since",
        22,
        "PushqProcessesDie",
        {'pushq_jobs_requeued_total{instance,queue="bulk",task="new"}': "_x20 2x40"},
    ),
    case("a process died", 22, "", {'pushq_jobs_requeued_total{instance,queue="mail",task="welcome"}': "3x20 4x40"}),
    case("a pool of two hears nothing", 30, "PushqHearsNothing", {("a", "pushq_listener_up{instance}"): "2x20 1x40"}),
    case("no pool hears anything", 30, "PushqHearsNothing", {("a", "pushq_listener_up{instance}"): "2x20 0x40"}),
    case("a listener lost its connection", 30, "", {("a", "pushq_listener_up{instance}"): "2x20 1x2 2x40"}),
    case(
        "an exporter has no pools",
        30,
        "",
        of("b", {"pushq_pools{instance}": "0x60", "pushq_listener_up{instance}": "0x60"}),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_fires_when(case: Case, tmp_path: Path) -> None:
    assert firing(case.series, case.at, tmp_path) == case.fires


def test_each_alert_fires_in_one_case_and_is_silent_in_another() -> None:
    assert len(ALERTS) >= 7
    assert {alert for case in CASES for alert in case.fires} == set(ALERTS)


def firing(series: Mapping[str, str], minute: int, directory: Path, by: str = "alertname") -> set[str]:
    """Which alerts do, or of what: promtool expects none, and says what it got."""
    wanted = [
        {"expr": f'count by ({by}) (ALERTS{{alertstate="firing"}})', "eval_time": f"{minute}m", "exp_samples": []}
    ]
    test = {
        "rule_files": [str(DEPLOY / "alerts.yml")],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [{"series": name, "values": values} for name, values in series.items()],
                "promql_expr_test": wanted,
            }
        ],
    }
    file = directory / "test.yml"
    file.write_text(json.dumps(test))
    ended = subprocess.run([promtool(), "test", "rules", str(file)], capture_output=True, text=True, check=False)
    said = ended.stdout + ended.stderr
    assert ("SUCCESS" in said) == (ended.returncode == 0)
    assert "SUCCESS" in said or "got:" in said, said
    return set(re.findall(rf'{by}="(\w+)"', said))


# What a supervisor shows -------------------------------------------------------------------------------------------


class Scraped:
    """Every sample, minute by minute, as Prometheus would have stored it of one target."""

    def __init__(self) -> None:
        self._samples: list[dict[str, str]] = []

    def note(self, exposition: str, *, minutes: int) -> None:
        lines = re.findall(r"^(\w+)(?:\{(.*)\})? (\S+)$", exposition, re.MULTILINE)
        samples = {f'{name}{{instance="a",{labels}}}'.replace(",}", "}"): value for name, labels, value in lines}
        self._samples += [samples | {'up{instance="a",job="pushq"}': "1"}] * minutes

    @property
    def series(self) -> dict[str, str]:
        names = {name for samples in self._samples for name in samples}
        return {name: " ".join(samples.get(name, "stale") for samples in self._samples) for name in names}


async def test_a_task_s_first_failures_are_told_by_what_a_supervisor_shows(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    """On its own queue, and on one to which rows alone have sent it."""
    scraped = Scraped()
    with supervising(database_url, "--queue", "default", "--queue", "bulk") as supervisor:
        scraped.note(supervisor.get("/metrics")[1], minutes=20)
        assert firing(scraped.series, 19, tmp_path) == set()
        await finished(connection, *await insert(connection, "fail"), *await insert(connection, "fail", queue="bulk"))
        scraped.note(supervisor.get("/metrics")[1], minutes=10)

    assert firing(scraped.series, 27, tmp_path, by="queue") == {"default", "bulk"}


async def test_a_database_that_is_away_is_told_apart_from_supervisors_that_are_not_there(
    database_url: str, connection: Connection, tmp_path: Path
) -> None:
    scraped = Scraped()
    async with proxied(database_url) as proxy:
        with ExitStack() as stack:
            supervisor = stack.enter_context(supervising(proxy.url, ready=False))
            await asyncio.to_thread(supervisor.wait_ready)
            scraped.note((await asyncio.to_thread(supervisor.get, "/metrics"))[1], minutes=10)
            proxy.is_silent = True
            scraped.note((await asyncio.to_thread(supervisor.get, "/metrics"))[1], minutes=10)
    assert firing(scraped.series, 15, tmp_path) == {"PushqDatabaseIsAway"}

    await connection.execute("delete from pushq.supervisors")
    with exporting(database_url) as (_, place):
        scraped.note(get(f"{place}/metrics")[1], minutes=10)
    assert firing(scraped.series, 25, tmp_path) == {"PushqNoSupervisor"}


# Prometheus takes the files ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("check", [("config", "prometheus.yml"), ("rules", "alerts.yml")], ids="".join)
def test_prometheus_takes_the_files(check: tuple[str, str]) -> None:
    what, file = check
    ended = subprocess.run([promtool(), "check", what, str(DEPLOY / file)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr


WATCH_IT = (ROOT / "docs" / "how-to" / "watch-it.md").read_text()


def test_there_is_one_set_of_alerts_and_the_page_quotes_the_file() -> None:
    """Name for name, with the minutes for which each condition must hold."""
    assert "expr:" not in WATCH_IT
    text = (DEPLOY / "alerts.yml").read_text()
    for alert, rule in re.findall(r"- alert: (\w+)\n(.*?)(?=\n\n|\Z)", text, re.DOTALL):
        minutes = re.search(r"for: (\d+)m", rule)
        fires = re.search(rf"^\| `{alert}` \| (for (\d+) minutes?, )?", WATCH_IT, re.MULTILINE)
        assert fires, alert
        assert fires[2] == (minutes[1] if minutes else None), alert
    assert re.findall(r"^\| `(Pushq\w+)`", WATCH_IT, re.MULTILINE) == ALERTS


def test_prometheus_takes_the_queries_of_the_page(tmp_path: Path) -> None:
    queries = re.findall(r"^\|[^|`]+\| `([^`]*pushq_[^`]*)` \|$", WATCH_IT, re.MULTILINE)
    assert len(queries) == 4
    rules = [{"record": f"query:{number}", "expr": query} for number, query in enumerate(queries)]
    file = tmp_path / "rules.yml"
    file.write_text(json.dumps({"groups": [{"name": "page", "rules": rules}]}))
    ended = subprocess.run([promtool(), "check", "rules", str(file)], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
