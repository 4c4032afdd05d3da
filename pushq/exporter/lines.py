"""Lines of a log, on the way to standard error.

The reader of a log may stall or be gone, and a disk may be full. So a thread writes the lines, and lines are dropped
when the thread cannot keep up. Nothing else ever waits for a log, or fails because of a log.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TextIO

MOST_UNWRITTEN = 10_000
"""Lines kept for the thread, at most."""
LAST_LINES = 0.5
"""Seconds to write the lines left at the end."""


class LineWriter:
    """Writes lines in a thread. most: how many unwritten lines are kept."""

    def __init__(self, stream: TextIO, *, most: int = MOST_UNWRITTEN) -> None:
        self._stream = stream
        self._pid = os.getpid()
        self._lines: queue.Queue[str | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> bool:
        """Returns whether the line will be written; False: dropped, because too many lines wait."""
        if os.getpid() != self._pid:  # a handler has forked: the child has no thread
            with suppress(OSError, ValueError):
                self._write(line + "\n")
            return True
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Ends the thread, after at most LAST_LINES for the lines left."""
        until = time.monotonic() + LAST_LINES
        with suppress(queue.Full):
            self._lines.put(None, timeout=LAST_LINES)
        self._thread.join(max(0.0, until - time.monotonic()))

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):  # the reader is gone, or the disk full
                self._write(line + "\n")

    def _write(self, line: str) -> None:
        """Writes past the stream's buffer.

        A process that exits while a thread holds a buffer's lock ends in a fatal error.
        """
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError):
            self._stream.write(line)
            return
        rest = line.encode(self._stream.encoding, "backslashreplace")
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def instant(seconds: float | None = None) -> str:
    """An instant in UTC as ISO 8601, to the millisecond. seconds: as from time.time(); None: now."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shown(value: object) -> str:
    """A value as one token of a console line, quoted where needed. Names in rows may hold any text."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = printable(text.replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{text}"' if " " in text or "\\" in text else text


def printable(text: str) -> str:
    """Text that cannot move the cursor or forge a line. Rows may hold any text."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
