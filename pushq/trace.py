"""Where an exception came from: its traceback as text, and its place in the user's code."""

from __future__ import annotations

import re
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from traceback import StackSummary, TracebackException
from types import FrameType, TracebackType
from typing import Any, TypeAlias

Place: TypeAlias = tuple[FrameType, int]
"""A frame, and the line where it is."""

LONGEST = 16 * 1024
"""Bytes of a traceback that are kept: its last ones, since the innermost frames tell most."""
MOST_FRAMES = 60

_PACKAGE = Path(__file__).parent
_OURS = (f"{_PACKAGE / 'pool'}/", f"{_PACKAGE / 'task.py'}", f"{_PACKAGE / 'handler.py'}")
"""The files of those who call a handler: what lies between the event loop and the user's code."""
_LIBRARIES = ("<", *(f"{sysconfig.get_path(scheme)}/" for scheme in ("stdlib", "platstdlib", "purelib", "platlib")))
_CUT = "… (cut)\n"
_DETAIL = re.compile(r"\nDETAIL:[^\n]*")
"""What a database adds to its message: it shows rows."""


@dataclass(frozen=True, slots=True)
class Trace:
    """text: the traceback, as Python prints it, without our own frames. place: FILE:LINE, the innermost of the user."""

    text: str
    place: str


def trace(error: BaseException) -> Trace | None:
    """None where no code of the user's has raised it, and where it cannot be looked at. Raises nothing."""
    try:
        return _trace(error)
    except BaseException:  # noqa: BLE001 - an exception's own methods are the user's code
        return None


def _trace(error: BaseException) -> Trace | None:
    frames = _of_the_user(error)
    if frames is None:
        return _trace(error.__cause__) if error.__cause__ else None
    told = TracebackException(type(error), error, frames, limit=-MOST_FRAMES, compact=True)
    text = _DETAIL.sub("", "".join(told.format()))
    return Trace(_end_of(text), _said(_places(error, frames)[0]))


def _of_the_user(error: BaseException) -> TracebackType | None:
    """The traceback from where it enters the user's code."""
    frames = error.__traceback__
    while frames and frames.tb_frame.f_code.co_filename.startswith(_OURS):
        frames = frames.tb_next
    return frames


def stack(frames: Sequence[Place]) -> str:
    """Where something is, the outermost first, as Python prints it, without our own frames."""
    users = [place for place in frames if not place[0].f_code.co_filename.startswith(_OURS)]
    return _end_of("".join(StackSummary.extract(iter(users[-MOST_FRAMES:])).format()))


def places(error: BaseException) -> list[str]:
    """FILE:LINE of the frames in the user's code, the innermost first. None where the user's code has not raised it."""
    frames = _of_the_user(error)
    return [_said(place) for place in _places(error, frames)] if frames else []


def _places(error: BaseException, frames: TracebackType) -> list[tuple[str, int]]:
    """Those outside of the libraries; an application may be installed among them: then the innermost."""
    found = [(frame.tb_frame.f_code.co_filename, frame.tb_lineno) for frame in reversed([*_each(frames)])]
    if isinstance(error, SyntaxError) and error.filename:  # whose innermost frame is the importer's
        found.insert(0, (error.filename, error.lineno or 1))
    return [place for place in found if not place[0].startswith(_LIBRARIES)] or found[:1]


def _said(place: tuple[str, int]) -> str:
    return f"{place[0].removeprefix(_here())}:{place[1]}"


def _here() -> str:
    try:
        return f"{Path.cwd()}/"
    except OSError:  # somebody has removed it
        return ""


def _each(frames: TracebackType | None) -> Iterator[Any]:
    while frames:
        yield frames
        frames = frames.tb_next


def _end_of(text: str) -> str:
    whole = text.encode(errors="backslashreplace")
    return text if len(whole) <= LONGEST else _CUT + whole[len(_CUT.encode()) - LONGEST :].decode(errors="ignore")
