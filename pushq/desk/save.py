"""Saves artifacts as files, never outside the folder, and each whole or not at all.

An artifact is written to a file of another name in the folder, checked, and then linked to its own name, which fails if
the name is taken, by a symlink too. All names are looked up in the open folder, whatever is put in its place meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from pushq.artifacts import refuse_wrong
from pushq.errors import ArtifactRefused, NotSaved, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pushq.reading import Artifact

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW


@contextmanager
def folder_at(path: Path) -> Iterator[int]:
    """A folder, made if missing, as a file descriptor. Raises UsageError."""
    if path.is_symlink() and not path.exists():
        target = path.readlink()
        raise UsageError(f"{path} is a symlink to {target}, and nothing is there: make that folder, or name another.")
    try:
        path.mkdir(parents=True, exist_ok=True)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(f"{path} is no folder to save into: {error.strerror}.") from None
    try:
        yield folder
    finally:
        os.close(folder)


def refuse_paths(artifacts: list[Artifact]) -> None:
    """Raises UsageError for names that are no names of files."""
    for one in artifacts:
        _refuse_path(one.name)


def refuse_taken(folder: int, artifacts: list[Artifact]) -> None:
    """Raises UsageError for names that are taken in the folder."""
    for one in artifacts:
        with suppress(FileNotFoundError):
            os.lstat(one.name, dir_fd=folder)
            raise _taken(one.name)


async def save(
    folder: int,
    artifact: Artifact,
    pieces: AsyncIterator[bytes],
    told: Callable[[int], None],
    *,
    overwrites: bool = False,
) -> None:
    """Saves an artifact. told: is told the bytes written so far.

    Raises NotSaved, UsageError for a name that is no file's or was taken meanwhile, and what the pieces raise.
    """
    _refuse_path(artifact.name)
    partial = f".{uuid4().hex}.part"
    try:
        with os.fdopen(os.open(partial, _NEW, 0o666, dir_fd=folder), "wb") as file:
            async for piece in pieces:
                file.write(piece)
                told(file.tell())
        if overwrites:
            os.replace(partial, artifact.name, src_dir_fd=folder, dst_dir_fd=folder)
        else:
            _give_name(folder, partial, artifact.name)
    except OSError as error:
        raise NotSaved(f"The artifact {artifact.name!r} cannot be saved: {error.strerror}.") from None
    finally:
        with suppress(FileNotFoundError):
            os.unlink(partial, dir_fd=folder)


def _give_name(folder: int, partial: str, name: str) -> None:
    try:
        os.link(partial, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    except FileExistsError:
        raise _taken(name) from None
    except PermissionError:  # a file system without links
        try:
            os.close(os.open(name, _NEW, 0o666, dir_fd=folder))
        except FileExistsError:
            raise _taken(name) from None
        os.replace(partial, name, src_dir_fd=folder, dst_dir_fd=folder)


def _refuse_path(name: str) -> None:
    """The database refuses such names. But a database may be anybody's."""
    try:
        refuse_wrong(name, "text/plain")
    except ArtifactRefused as error:
        raise UsageError(str(error)) from None


def _taken(name: str) -> UsageError:
    return UsageError(f"There is a file {name!r} already; --overwrite replaces it, or --into another folder.")
