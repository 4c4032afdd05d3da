"""The base of stores. A room that speaks to the database has a store.py, and a folder sql/ with the statements.

A store has one short method a statement, and each statement has a file.
"""

from __future__ import annotations

from typing import Any

from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.errors import UnexpectedState


class Speaker:
    """Runs statements on one session. Every method raises DatabaseTrouble."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def _one(self, name: str, *arguments: object) -> Any:
        """The only row of a statement. Raises UnexpectedState without a row."""
        rows = await self._fetch(name, *arguments)
        if not rows:
            raise UnexpectedState(f"{name}.sql returned no row, as where a trigger of somebody's skips it.")
        return rows[0]

    async def _fetch(self, name: str, *arguments: object) -> list[Any]:
        return await self._session.fetch(statement(name), *arguments)
