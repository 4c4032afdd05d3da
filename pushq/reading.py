"""Reads artifacts that handlers have left with their jobs, for producers, commands and tests."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from pushq.database.session import Session
from pushq.database.statements import statement
from pushq.errors import ArtifactUnknown
from pushq.settings import Settings


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that a handler has left with a job, complete.

    id: another for each attempt that writes the name. job_id: the job's. name: unique for the job, and no path.
    content_type: as the handler gave it. size: in bytes. sha256: in hexadecimal digits. attempt: of the job, in which
    the artifact was written. created_at: when it was complete. pieces: in how many it is kept.
    """

    id: UUID
    job_id: UUID
    name: str
    content_type: str
    size: int
    sha256: str
    attempt: int
    created_at: datetime
    pieces: int


@asynccontextmanager
async def opened(url: str | None) -> AsyncIterator[Session]:
    """A connection for reading. url: None for the database of the settings."""
    if url is not None and not isinstance(url, str):  # never shown: there may be a password
        raise TypeError(f"url is a str, 'postgresql://…', or None, not a {type(url).__name__}.")
    session = Session(Settings.load().url if url is None else url, "pushq reads artifacts")
    try:
        yield session
    finally:
        await session.close()


def _refuse_other(argument: str, value: object, its_type: type) -> None:
    if not isinstance(value, its_type):
        raise TypeError(f"{argument}={value!r} is of type {type(value).__name__}: give a {its_type.__name__}.")


async def artifacts_of(session: Session, job_id: UUID) -> list[Artifact]:
    _refuse_other("job_id", job_id, UUID)
    return [Artifact(**row) for row in await session.fetch(statement("list_artifacts"), job_id, None)]


async def find(session: Session, job_id: UUID, name: str) -> Artifact:
    """Raises ArtifactUnknown."""
    _refuse_other("job_id", job_id, UUID)
    _refuse_other("name", name, str)
    if rows := await session.fetch(statement("list_artifacts"), job_id, name):
        return Artifact(**rows[0])
    raise ArtifactUnknown(f"Job {job_id} has no artifact {name!r} that this login may read.")


async def pieces_of(session: Session, artifact: Artifact) -> AsyncGenerator[bytes, None]:
    """The bytes, in pieces. Raises ArtifactUnknown if the artifact is replaced or deleted meanwhile."""
    digest, size = hashlib.sha256(usedforsecurity=False), 0
    for place in range(artifact.pieces):
        (row,) = await session.fetch(statement("artifact_piece"), artifact.id, place)
        piece = row["data"]
        if piece is None:
            raise ArtifactUnknown(
                f"The artifact {artifact.name!r} of job {artifact.job_id} was replaced or deleted while it was read; "
                "begin again."
            )
        digest.update(piece)
        size += len(piece)
        yield piece
    if (size, digest.hexdigest()) != (artifact.size, artifact.sha256):
        raise ArtifactUnknown(
            f"The artifact {artifact.name!r} of job {artifact.job_id} has lost its bytes: {size:,} bytes of SHA-256 "
            f"{digest.hexdigest()}, not {artifact.size:,} of {artifact.sha256}."
        )
