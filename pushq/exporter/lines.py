"""Lines of a log, on their way to standard error.

Whoever reads the log may stand still, or be gone, and a disk may be full: lines are written by a thread of their own,
and dropped when it cannot keep up, so that nothing else ever waits for a log or fails by it.
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
"""Lines."""
LAST_LINES = 0.5
"""Seconds, at the end, for what is not written yet."""


class LineWriter:
    """Writes lines in a thread of its own, and keeps so many that are not written yet."""

    def __init__(self, stream: TextIO, *, most: int = MOST_UNWRITTEN) -> None:
        self._stream = stream
        self._pid = os.getpid()
        self._lines: queue.Queue[str | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> bool:
        """Whether the line will be written, if the stream takes it."""
        if os.getpid() != self._pid:  # a child that a handler has forked, in which our thread does not live
            with suppress(OSError, ValueError):
                self._write(line + "\n")
            return True
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            return False
        return True

    def close(self) -> None:
        """Ends, and waits for what is not written yet, if that takes no longer than LAST_LINES."""
        until = time.monotonic() + LAST_LINES
        with suppress(queue.Full):
            self._lines.put(None, timeout=LAST_LINES)
        self._thread.join(max(0.0, until - time.monotonic()))

    def _write_all(self) -> None:
        while (line := self._lines.get()) is not None:
            with suppress(OSError, ValueError):  # the reader is gone, or the disk full
                self._write(line + "\n")

    def _write(self, line: str) -> None:
        """Past the stream's buffer: whoever ends while this thread holds a buffer's lock ends in a fatal error."""
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError):
            self._stream.write(line)
            return
        rest = line.encode(self._stream.encoding, "backslashreplace")
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def instant(seconds: float | None = None) -> str:
    """By the clock of time.time(); None: now."""
    moment = datetime.now(UTC) if seconds is None else datetime.fromtimestamp(seconds, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def shown(value: object) -> str:
    """A value that cannot end before its end: names may hold anything."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = printable(text.replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{text}"' if " " in text or "\\" in text else text


def printable(text: str) -> str:
    """Text that cannot move the cursor or forge a line: rows may hold anything."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
