"""docs/reference/metrics.md names every metric, with its type, labels and bounds."""

from __future__ import annotations

import re

from prometheus_client.parser import text_string_to_metric_families

from pushq.events import WAKEUPS
from tests.documents.rows import REFERENCE, rows
from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import supervising

PAGE = (REFERENCE / "metrics.md").read_text()


async def test_the_page_names_every_metric_with_its_type_and_labels(database_url: str, connection: Connection) -> None:
    await connection.execute("select pushq.limit('gpu', 2)")
    with supervising(database_url) as supervisor:
        await finished(connection, *await insert(connection, "echo"))
        shown = {}
        for family in text_string_to_metric_families(supervisor.get("/metrics")[1]):
            name = family.name + "_total" * (family.type == "counter")
            labels = {label for sample in family.samples for label in sample.labels} - {"le"}
            shown[name] = [family.type, ", ".join(sorted(labels)) or "none"]
    page = {name: cells[:2] for name, cells in rows(PAGE.replace(_buckets(), "")).items()}
    assert shown.pop("pushq_running_oldest_seconds")[0] == page.pop("pushq_running_oldest_seconds")[0]
    assert page == shown
    assert [source for source in WAKEUPS if f"`{source}`" not in PAGE] == []


async def test_the_page_gives_the_bounds_of_the_buckets(connection: Connection) -> None:
    page = rows(_buckets())
    for what in ("run", "wait"):
        bounds = await connection.fetchval(f"select pushq.{what}_bounds()")
        assert page[f"pushq_job_{what}_seconds"] == [", ".join(f"{bound:g}" for bound in bounds)]


def _buckets() -> str:
    found = re.search(r"^\| histogram.*?\n\n", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    return found[0]
