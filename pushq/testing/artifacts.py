"""Keeps the artifacts of handlers that a test calls in memory, with the rules and the limits of a database."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from concurrent.futures import Future
from typing import TypeVar
from uuid import UUID, uuid4

from pushq.artifacts import Draft, Fence, Limits
from pushq.errors import ArtifactRefused
from pushq.settings import Settings

T = TypeVar("T")


def limits_of(settings: Settings) -> Limits:
    return Limits(settings.artifact_bytes, settings.artifacts_per_job, settings.artifact_bytes_per_day)


class Memory:
    """left: the complete artifacts of the job, by name."""

    def __init__(self, left: MutableMapping[str, bytes], limits: Limits) -> None:
        self._left = left
        self._limits = limits
        self._written = set[str]()  # by this attempt
        self._drafts = dict[UUID, bytearray]()

    def begin(self, fence: Fence, name: str, content_type: str) -> Future[UUID]:  # noqa: ARG002 - checked before
        return _answer(lambda: self._begin(name))

    def append(self, draft: Draft, place: int, data: bytes) -> Future[None]:  # noqa: ARG002 - comes in order
        return _answer(lambda: self._append(draft, data))

    def complete(self, draft: Draft) -> Future[None]:
        return _answer(lambda: self._complete(draft))

    def discard(self, draft: Draft) -> None:
        assert draft.id
        self._drafts.pop(draft.id, None)

    def _begin(self, name: str) -> UUID:
        if name in self._written:
            raise ArtifactRefused(f"This attempt has written an artifact {name!r} already; give another name.")
        if len({*self._left} - {name}) + len(self._drafts) >= self._limits.most:
            raise ArtifactRefused(f"The job has {self._limits.most} artifacts, and may have no more.")
        its_id = uuid4()
        self._drafts[its_id] = bytearray()
        return its_id

    def _append(self, draft: Draft, data: bytes) -> None:
        assert draft.id
        if draft.size > self._limits.largest:
            raise ArtifactRefused(f"The artifact {draft.name!r} is over {self._limits.largest} bytes, the limit.")
        self._drafts[draft.id] += data

    def _complete(self, draft: Draft) -> None:
        assert draft.id
        self._written.add(draft.name)
        self._left[draft.name] = bytes(self._drafts.pop(draft.id))


def _answer(ask: Callable[[], T]) -> Future[T]:
    answer = Future[T]()
    try:
        answer.set_result(ask())
    except ArtifactRefused as error:
        answer.set_exception(error)
    return answer
