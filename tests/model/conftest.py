"""The table that a model is tried on."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf

import pytest

from pushq.sweeper import witness
from tests.model.machine import TableMachine
from tests.model.real_table import RealTable, real_table


@pytest.fixture
def table(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealTable]:
    monkeypatch.setattr(witness, "SLOW_ANSWER", inf)  # of a machine that is busy with other tests
    with real_table(database_url) as table:
        monkeypatch.setattr(TableMachine, "table", table, raising=False)
        yield table
