"""Whose fault it is that a statement was undone is found by halves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import log2

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pushq.database.patience import piecewise, wait_out
from pushq.errors import (
    DatabaseAway,
    DatabaseRefused,
    DatabaseTrouble,
    StatementRolledBack,
    UnexpectedState,
    ValueRefused,
)


@given(count=st.integers(0, 500), at_fault=st.sets(st.integers(0, 499), max_size=20))
def test_all_are_done_but_those_at_fault_and_each_of_them_is_found_in_some_log_n_calls(
    count: int, at_fault: set[int]
) -> None:
    done, calls = list[int](), 0
    bad = {one for one in at_fault if one < count}

    async def call(items: Sequence[int]) -> None:
        nonlocal calls
        calls += 1
        if found := bad.intersection(items):
            raise UnexpectedState(f"no {min(found)}", "P0001")
        done.extend(items)

    faults = asyncio.run(piecewise(call, range(count)))

    assert sorted(done) == [one for one in range(count) if one not in bad]
    assert faults == [(one, f"no {one}") for one in sorted(bad)]
    assert calls <= 1 + len(bad) * (2 * log2(max(count, 1)) + 4)


def test_where_each_is_at_fault_each_is_tried_alone_once() -> None:
    calls = list[int]()

    async def call(items: Sequence[int]) -> None:
        calls.append(len(items))
        raise ValueRefused("no", "22000")

    faults = asyncio.run(piecewise(call, range(500)))

    assert len(faults) == 500
    assert calls.count(1) == 500
    assert len(calls) <= 500 + 9


@pytest.mark.parametrize("kind", [UnexpectedState, ValueRefused, StatementRolledBack, DatabaseAway, DatabaseRefused])
def test_what_the_server_does_not_answer_is_nobody_s_fault(kind: type[DatabaseTrouble]) -> None:
    async def call(_: Sequence[int]) -> None:
        raise kind("nobody is there")

    with pytest.raises(kind):
        asyncio.run(piecewise(call, range(3)))


def test_what_is_not_to_be_waited_out_is_raised() -> None:
    async def call() -> None:
        raise UnexpectedState("no", "P0001")

    with pytest.raises(UnexpectedState):
        asyncio.run(wait_out(call, unless=lambda error: bool(error.state)))
