"""Where an exception came from: the traceback as text, and the place in the user's code."""

from __future__ import annotations

import os
import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import StackSummary, TracebackException
from types import FrameType, TracebackType
from typing import Any, TypeAlias

Place: TypeAlias = tuple[FrameType, int]
"""A frame and its current line."""

LONGEST = 16 * 1024
"""Bytes kept of a traceback: the last bytes, since the innermost frames tell most."""
MOST_FRAMES = 60

_PACKAGE = Path(__file__).parent
_OURS = (f"{_PACKAGE / 'pool'}/", str(_PACKAGE / "database" / "lending.py"), *map(str, _PACKAGE.glob("*.py")))
"""Files whose frames lie between the event loop and the user's code. What fails in them alone has no place."""
_LIBRARIES = ("<", *(f"{sysconfig.get_path(scheme)}/" for scheme in ("stdlib", "platstdlib", "purelib", "platlib")))
_CUT = "… (cut)\n"
_DETAIL = re.compile(r"\nDETAIL:[^\n]*")
"""The part of a database's message that shows rows."""


@dataclass(frozen=True, slots=True)
class Trace:
    """text: the traceback, as Python prints it, without pushq's frames. place: FILE:LINE, the user's innermost
    frame."""

    text: str
    place: str


def traceback_of(error: BaseException) -> TracebackType | None:
    """An exception's traceback, without running code of the exception's class."""
    return _TRACEBACK.__get__(error)  # type: ignore[no-any-return]


_TRACEBACK: Any = BaseException.__dict__["__traceback__"]


def trace(error: BaseException) -> Trace | None:
    """The trace of an exception. None: no code of the user raised it, or looking at it fails. Raises nothing."""
    try:
        return _trace(error)
    except BaseException:  # noqa: BLE001 - the exception's methods are the user's code
        return None


def _trace(error: BaseException) -> Trace | None:
    frames = _of_the_user(error)
    if frames is None:
        return _trace(error.__cause__) if error.__cause__ is not None else None
    told = TracebackException(type(error), error, frames, limit=-MOST_FRAMES, compact=True)
    text = _DETAIL.sub("", "".join(told.format()))
    return Trace(_end_of(text), _said(_places(error, frames)[0]))


def _of_the_user(error: BaseException) -> TracebackType | None:
    """The traceback from the first frame of the user's code, or None."""
    frames = traceback_of(error)
    while frames and frames.tb_frame.f_code.co_filename.startswith(_OURS):
        frames = frames.tb_next
    return frames


def stack(frames: Sequence[Place]) -> str:
    """A stack as text, the outermost frame first, as Python prints it, without pushq's frames."""
    users = [place for place in frames if not place[0].f_code.co_filename.startswith(_OURS)]
    return _end_of("".join(StackSummary.extract(iter(users[-MOST_FRAMES:])).format()))


def places(error: BaseException) -> list[str]:
    """FILE:LINE of the frames in the user's code, the innermost first. Empty: no code of the user raised the error."""
    frames = _of_the_user(error)
    return [_said(place) for place in _places(error, frames)] if frames else []


def _places(error: BaseException, frames: TracebackType) -> list[tuple[str, int]]:
    """The frames outside of the libraries, or the innermost frame for an application installed as a library."""
    found = [(frame.tb_frame.f_code.co_filename, frame.tb_lineno) for frame in reversed([*_each(frames)])]
    if isinstance(error, SyntaxError) and error.filename:  # the innermost frame is the importer's
        found.insert(0, (error.filename, error.lineno or 1))
    return [place for place in found if _is_the_user_s(place[0])] or found[:1]


def _is_the_user_s(file: str) -> bool:
    """A file of the user's has a whole path. Compiled code of a library may carry a path of the build."""
    return not file.startswith((*_LIBRARIES, *_OURS)) and file.startswith(os.sep)


def _said(place: tuple[str, int]) -> str:
    return f"{place[0].removeprefix(_here())}:{place[1]}"


def _here() -> str:
    try:
        return f"{Path.cwd()}/"
    except OSError:  # the directory was removed
        return ""


def _each(frames: TracebackType | None) -> Iterator[Any]:
    while frames:
        yield frames
        frames = frames.tb_next


def _end_of(text: str) -> str:
    whole = text.encode(errors="backslashreplace")
    return text if len(whole) <= LONGEST else _CUT + whole[len(_CUT.encode()) - LONGEST :].decode(errors="ignore")
