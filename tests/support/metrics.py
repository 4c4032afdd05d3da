"""What a supervisor's /metrics say."""

from __future__ import annotations

import asyncio

from prometheus_client.parser import text_string_to_metric_families

from tests.support.supervisors import RunningSupervisor
from tests.support.waiting import eventually


def scrape(supervisor: RunningSupervisor, name: str, **labels: str) -> float:
    """The sum of a metric's samples with these labels."""
    families = text_string_to_metric_families(supervisor.get("/metrics")[1])
    return sum(
        sample.value
        for family in families
        for sample in family.samples
        if sample.name == name and labels.items() <= sample.labels.items()
    )


async def shows(supervisor: RunningSupervisor, name: str, value: float, within: float = 10) -> None:
    """Waits for a metric's value; the loop is free meanwhile, for a proxy that runs in it."""

    async def look() -> bool:
        return await asyncio.to_thread(scrape, supervisor, name) == value

    await eventually(look, within=within)
