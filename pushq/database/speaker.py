"""What a room says to the database: one short method a statement, each statement in a file of its own.

Each room that speaks has a store.py, and its statements beside it in sql/. This is what the stores have in common.
"""

from __future__ import annotations

from typing import Any

from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.errors import UnexpectedState


class Speaker:
    """Says statements on one session."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def _one(self, name: str, *arguments: object) -> Any:
        """The one row that a statement returns."""
        rows = await self._fetch(name, *arguments)
        if not rows:
            raise UnexpectedState(f"{name}.sql returned no row, as where a trigger of somebody's skips it.")
        return rows[0]

    async def _fetch(self, name: str, *arguments: object) -> list[Any]:
        return await self._session.fetch(statement(name), *arguments)
