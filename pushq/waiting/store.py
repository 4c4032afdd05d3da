"""A waiter's statements."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from pushq.database.speaker import Speaker
from pushq.producers.inserts import insert_of


class Store(Speaker):
    async def new_ids(self, number: int) -> list[UUID]:
        """Ids for new jobs, which ascend."""
        return [row["id"] for row in await self._fetch("new_ids", number)]

    async def insert(self, rows: Sequence[Sequence[object]]) -> set[UUID]:
        """The ids of the jobs that were inserted. Jobs whose unique_key or id is taken are left out."""
        name, columns = insert_of([list(column) for column in zip(*rows, strict=True)])
        return {row["id"] for row in await self._fetch(name, *columns)}

    async def watch(self, job_ids: Iterable[UUID], channel: str) -> set[UUID]:
        """The ids of the jobs whose end will be told."""
        return {row["id"] for row in await self._fetch("watch", list(job_ids), channel)}

    async def unwatch(self, job_ids: Iterable[UUID], channel: str) -> None:
        await self._fetch("unwatch", list(job_ids), channel)

    async def ends(self, job_ids: Iterable[UUID]) -> dict[UUID, Any]:
        """The rows of ends.sql, by id."""
        return {row["id"]: row for row in await self._fetch("ends", list(job_ids))}
