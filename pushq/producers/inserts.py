"""Which INSERT jobs take: those that need nothing pay for no column of needs.                          (pure)"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

Columns: TypeAlias = list[list[object]]
"""A list for each column of insert_with_needs.sql."""

_OF_NEEDS = 3
"""Its last columns, which insert.sql has not."""
_SELDOM = 5
"""Its last columns, each of which may be empty."""


def insert_of(columns: Columns) -> tuple[str, Columns]:
    """The name of the statement, and its parameters: columns in which nobody has a value are empty or left out."""
    columns = [*columns[:-_SELDOM], *(_unless_empty(column) for column in columns[-_SELDOM:])]
    if any(columns[-_OF_NEEDS:]):
        return "insert_with_needs", columns
    return "insert", columns[:-_OF_NEEDS]


def _unless_empty(column: Sequence[object]) -> list[object]:
    return [] if column.count(None) == len(column) else list(column)
