"""What a handler writes of an artifact, on its way to whoever keeps artifacts: the pool, or a test's memory.

Any thread and any event loop of the process may write. A keeper answers by futures of threads, for which an `async def`
awaits and a `def` blocks.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import re
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from uuid import UUID

from pushq.errors import ArtifactRefused, PushqError

if TYPE_CHECKING:
    from typing_extensions import Buffer

Fence: TypeAlias = tuple[UUID, UUID]
"""A job's id and the token of a claim."""

LARGEST_PIECE = 1024 * 1024
"""Bytes of a piece, in which artifacts are kept and sent."""
SMALLEST_PIECE = 64 * 1024
"""No piece is sent with fewer, but the last."""
GATHERED = 64 * LARGEST_PIECE
"""Bytes that wait, in all artifacts that are open, for the rest of their pieces."""
LONGEST_NAME = 200
LONGEST_NAME_IN_BYTES = 255
LONGEST_CONTENT_TYPE = 200

# As pushq.is_artifact_name() and pushq.is_content_type() have it.
_NO_NAME = re.compile("[/\\\\\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTENT_TYPE = re.compile(r"[a-zA-Z0-9!#$&^_.+-]+/[a-zA-Z0-9!#$&^_.+-]+( ?; ?[ -~]+)?")


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of an artifact, artifacts of a job, bytes that the jobs of a tenant write on a day."""

    largest: int
    most: int
    daily: int


class Keeper(Protocol):
    """Keeps artifacts. The futures raise ArtifactRefused, and DatabaseTrouble."""

    def begin(self, fence: Fence, name: str, content_type: str) -> Future[UUID]:
        """The id of a draft."""

    def append(self, draft: Draft, place: int, data: bytes) -> Future[None]:
        """Keeps the draft's next piece."""

    def complete(self, draft: Draft) -> Future[None]:
        """Shows the artifact to readers."""

    def discard(self, draft: Draft) -> None:
        """Gives the draft up, some time soon."""


keepers: dict[Fence | None, Keeper] = {}
"""Who keeps the artifacts of a claim; under None, those of all others."""
drafts: dict[tuple[Fence, str], Draft] = {}
"""The drafts that handlers of this process write, by claim and name."""


def give_up(fences: Sequence[Fence]) -> None:
    """The handlers of these claims have ended. Gives up what they have left open."""
    for draft in [draft for draft in list(drafts.values()) if draft.fence in fences]:
        draft.give_up()


@dataclass(eq=False)
class Draft:
    """What has been written of an artifact. size, sent: of the pieces sent. gathered: bytes of the next piece.

    under_way: the latest piece, until somebody has waited for it.

    id: None until the keeper has begun the draft, and again when no more is written. fault: why no more is taken.

    forgotten: writes of an `async def` that were called, and not awaited so far.
    """

    keeper: Keeper
    fence: Fence
    name: str
    id: UUID | None = None
    size: int = 0
    sent: int = 0
    fault: Exception | None = None
    under_way: Future[None] | None = None
    forgotten: int = 0
    hash: hashlib._Hash = field(default_factory=lambda: hashlib.sha256(usedforsecurity=False))
    gathered: bytearray = field(default_factory=bytearray)

    def begin(self, content_type: str) -> Future[UUID]:
        if drafts.setdefault((self.fence, self.name), self) is not self:
            raise ArtifactRefused(f"This attempt is writing an artifact {self.name!r} already; give another name.")
        return self.keeper.begin(self.fence, self.name, content_type)

    def pieces(self, data: Buffer) -> Iterator[Future[None]]:
        """Takes data, and yields each piece that is on its way to the keeper. Go on when the piece is kept.

        One piece is left on its way, while the handler makes the next.
        """
        with self._bytes_of(data) as given:
            self._refuse_closed()
            start, most = 0, _piece_size()
            while start < len(given):
                room = max(0, most - len(self.gathered))
                self.gathered += given[start : start + room]
                start += room
                if len(self.gathered) >= most:
                    yield from self._send()

    def rest(self) -> Iterator[Future[None]]:
        """The last pieces."""
        self._refuse_closed()
        if self.forgotten:
            raise ArtifactRefused(
                f"The artifact {self.name!r} is not whole: {self.forgotten} of its writes were called and not awaited; "
                "say `await file.write(…)`."
            )
        if self.gathered:
            yield from self._send()
        yield from self._sent_before()

    def spoil(self, error: BaseException) -> None:
        """A write has raised: whatever the handler does with the error, the artifact never becomes complete."""
        if self.fault is None:
            cut_off = ArtifactRefused(f"A write of the artifact {self.name!r} was cut off.")
            self.fault = error if isinstance(error, Exception) else cut_off

    def close(self) -> None:
        """No more is written."""
        if drafts.get((self.fence, self.name)) is self:
            del drafts[self.fence, self.name]
        self.id, self.gathered, self.under_way = None, bytearray(), None

    def give_up(self) -> None:
        if self.id:
            self.keeper.discard(self)
        self.close()

    def _refuse_closed(self) -> None:
        if self.fault:
            raise self.fault
        if self.id is None:
            raise ArtifactRefused(f"The artifact {self.name!r} is not open: write inside its `with`, in its attempt.")

    def _bytes_of(self, data: Buffer) -> memoryview:
        try:
            given = memoryview(data)
        except TypeError:
            raise TypeError(
                f"The artifact {self.name!r} is written in bytes, not in {type(data).__name__}: encode text, "
                "text.encode(); or in a `def`, let `with io.TextIOWrapper(file, 'utf-8', newline='') as text` do so."
            ) from None
        return given.cast("B")

    def _send(self) -> Iterator[Future[None]]:
        """Sends what was gathered, after the piece before is kept."""
        piece, self.gathered = bytes(self.gathered), bytearray()
        self.hash.update(piece)
        self.size += len(piece)
        yield from self._sent_before()
        self.sent += 1
        self.under_way = self.keeper.append(self, self.sent - 1, piece)

    def _sent_before(self) -> Iterator[Future[None]]:
        before, self.under_way = self.under_way, None
        if before:
            yield before


def _piece_size() -> int:
    return max(SMALLEST_PIECE, min(LARGEST_PIECE, GATHERED // max(1, len(drafts))))


class NewArtifact:
    """An artifact to write: `async with` in an `async def`, `with` in a `def`.

    Complete, and seen by readers, when the block ends; given up if the block raises.
    """

    def __init__(self, fence: Fence, name: str, content_type: str) -> None:
        refuse_wrong(name, content_type)
        keeper = keepers.get(fence) or keepers.get(None)
        if keeper is None:
            raise PushqError("Artifacts are written by handlers in a pool, and in pushq.testing: there is none here.")
        self._content_type = content_type
        self._draft = Draft(keeper, fence, name)

    async def __aenter__(self) -> ArtifactWriter:
        begun = self._draft.begin(self._content_type)
        try:
            self._draft.id = await asyncio.wrap_future(begun)
        except BaseException:
            self._give_up_what_begins(begun)
            raise
        return ArtifactWriter(self._draft)

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self._draft.give_up()
            return
        try:
            for sent in self._draft.rest():
                await asyncio.wrap_future(sent)
            await asyncio.wrap_future(self._draft.keeper.complete(self._draft))
        except BaseException:
            self._draft.give_up()
            raise
        self._draft.close()

    def __enter__(self) -> ArtifactFile:
        if _runs_a_loop():
            raise PushqError("This `with` would block the event loop: use `async with`, and await write().")
        begun = self._draft.begin(self._content_type)
        try:
            self._draft.id = begun.result()
        except BaseException:
            self._give_up_what_begins(begun)
            raise
        return ArtifactFile(self._draft)

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind:
            self._draft.give_up()
            return
        try:
            for sent in self._draft.rest():
                sent.result()
            self._draft.keeper.complete(self._draft).result()
        except BaseException:
            self._draft.give_up()
            raise
        self._draft.close()

    def _give_up_what_begins(self, begun: Future[UUID]) -> None:
        """The writer waits no more, and the keeper may have begun the draft all the same."""
        draft = self._draft
        if not begun.cancel() and begun.exception() is None:
            draft.id = begun.result()
        draft.give_up()


class ArtifactWriter:
    """Writes an artifact in an `async def`."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft

    def write(self, data: Buffer) -> Coroutine[Any, Any, None]:
        """Adds bytes, however many. Waits for what is sent, so that memory is bounded. One write at a time.

        To be awaited: else the end of the `async with` raises. Raises ArtifactRefused over a limit, and if the job is
        no longer held by this attempt; DatabaseTrouble if the database is away for longer than 15 s, or refuses. The
        artifact is then given up.
        """
        self._draft.forgotten += 1
        return self._write(data)

    async def _write(self, data: Buffer) -> None:
        self._draft.forgotten -= 1
        try:
            for sent in self._draft.pieces(data):
                await asyncio.wrap_future(sent)
        except TypeError:  # no bytes
            raise
        except BaseException as error:
            self._draft.spoil(error)
            raise


class ArtifactFile(io.BufferedIOBase):
    """Writes an artifact in a `def`: a binary file to which libraries can write, without a way back."""

    def __init__(self, draft: Draft) -> None:
        super().__init__()
        self._draft = draft

    @property
    def name(self) -> str:
        """The artifact's."""
        return self._draft.name

    def writable(self) -> bool:
        return True

    def write(self, data: Buffer, /) -> int:
        """Adds bytes, and returns how many. Raises as in an `async def`."""
        before = self.tell()
        try:
            for sent in self._draft.pieces(data):
                sent.result()
        except TypeError:  # no bytes
            raise
        except BaseException as error:
            self._draft.spoil(error)
            raise
        return self.tell() - before

    def tell(self) -> int:
        return self._draft.size + len(self._draft.gathered)


def refuse_wrong(name: object, content_type: object) -> None:
    """Raises TypeError and ArtifactRefused, as the database would."""
    for what, value in (("name", name), ("content type", content_type)):
        if not isinstance(value, str):
            raise TypeError(f"An artifact's {what} is a str, not a {type(value).__name__}.")
    assert isinstance(name, str)
    assert isinstance(content_type, str)
    if (
        not 1 <= len(name) <= LONGEST_NAME
        or _NO_NAME.search(name)
        or len(name.encode()) > LONGEST_NAME_IN_BYTES
        or name in (".", "..")
    ):
        raise ArtifactRefused(
            f"The artifact's name {name[:100]!r} cannot be used: give 1 to 200 characters, at most 255 bytes, without "
            r"/, \ and control characters, those of direction included, and neither . nor .."
        )
    if len(content_type) > LONGEST_CONTENT_TYPE or not _CONTENT_TYPE.fullmatch(content_type):
        raise ArtifactRefused(
            f"The artifact {name!r} has no content type by {content_type[:100]!r}: give one like image/png, of at most "
            "200 ASCII characters."
        )


def _runs_a_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
