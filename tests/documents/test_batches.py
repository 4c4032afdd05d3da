"""Write handlers: the example of a handler that takes batches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from pushq.errors import PayloadError
from pushq.testing import run
from tests.support.pages import blocks, section


class Warehouse:
    def __init__(self) -> None:
        self.rows = list[object]()

    async def insert(self, rows: Sequence[tuple[object, ...]]) -> None:
        self.rows += [row[1:] for row in rows]


async def test_the_example_runs_as_it_stands() -> None:
    (code,) = blocks("python", section("how-to/write-handlers.md", "Many jobs at once"))
    there: dict[str, Any] = {"warehouse": Warehouse()}
    exec(code, there)
    tasks, store_readings = there["tasks"], there["store_readings"]

    assert await run(tasks, store_readings.job(sensor="a", value=1.5)) is None
    assert there["warehouse"].rows == [("a", 1.5)]
    with pytest.raises(ValueError, match="below zero"):
        await run(tasks, store_readings.job(there["Reading"](sensor="a", value=-1.5)))
    with pytest.raises(PayloadError, match=r"payload\.value: Field required"):
        await run(tasks, replace(store_readings.job(sensor="a", value=1.5), payload={"sensor": "a"}))
