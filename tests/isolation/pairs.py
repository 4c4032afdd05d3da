"""Which operations are tried with one another: all that may meet, and those that a change is likeliest to break."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import combinations_with_replacement

import pytest

from tests.isolation.operations import NAMED, PARTS, Part

TRIED = [pair for pair in combinations_with_replacement(PARTS.values(), 2) if pair[0].is_tried_with(pair[1])]
# In every order there is, as are those that are NAMED with one another. After each change.
HOT = [
    {PARTS[name].name for name in pair.split()}
    for pair in """
    claim cancel_q1
    claim finish_retried
    claim declare_dead
    finish finish_reversed
    finish retry_r2
    finish_retried sweep
    retry_f1 insert_keyed
    retry_f0 retire
    retry_f0 purge
    purge retire
    heartbeat_one declare_dead
    insert_keyed insert_keyed_reversed
    insert_keyed finish
    """.strip().splitlines()
]


def is_hot(one: Part, other: Part) -> bool:
    return {one.name, other.name} <= NAMED or {one.name, other.name} in HOT


def named(pairs: Iterable[tuple[Part, ...]]) -> list[object]:
    return [pytest.param(*pair, id="-".join(part.name for part in pair)) for pair in pairs]
