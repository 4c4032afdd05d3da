"""Writes events to standard error, one a line: for people, or as JSON. Never a payload, never a password.

Whoever reads the log may stand still, or be gone, and a disk may be full: lines are written by a thread of their own,
and dropped when it cannot keep up, so that nothing else ever waits for a log or fails by it.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any, TextIO

from pushq.events import Event, JobEnded, JobsEnded, LogLinesDropped, subscribe

LEVELS = ("debug", "info", "warning", "error")
SAID_EVERY = 60.0
"""Seconds, for what is published again and again while it lasts."""
MOST_UNWRITTEN = 10_000
"""Lines."""
LAST_LINES = 0.5
"""Seconds, at the end, for what is not written yet."""


@contextmanager
def log_events(
    form: str, level: str, errors: str = "brief", *, source: str, stream: TextIO | None = None
) -> Iterator[None]:
    """Logs what is at least as loud as `level`. `source` says which process speaks; `errors` as PUSHQ_LOG_ERRORS."""
    writer = LineWriter(stream or sys.stderr)
    last_resort, logging.lastResort = logging.lastResort, _LastResort(writer)
    try:
        with subscribe(Log(form, level, source, writer, errors)):
            yield
    finally:
        logging.lastResort = last_resort
        writer.close()


class _LastResort(logging.Handler):
    """Takes what libraries log, where nobody has said how. Python's own would wait for the log to be read."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__(logging.WARNING)
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        self._writer.put(self.format(record))


class LineWriter:
    """Writes lines in a thread of its own, and keeps so many that are not written yet."""

    def __init__(self, stream: TextIO, *, most: int = MOST_UNWRITTEN) -> None:
        self._stream = stream
        self._lines: queue.Queue[str | None] = queue.Queue(most)
        self._thread = threading.Thread(target=self._write_all, name="log", daemon=True)
        self._thread.start()

    def put(self, line: str) -> bool:
        """Whether the line will be written, if the stream takes it."""
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


class Log:
    """A subscriber. What lasts is said once a minute; that the database is away, not by the pools."""

    def __init__(self, form: str, level: str, source: str, writer: LineWriter, errors: str = "brief") -> None:
        self._line = _json_line if form == "json" else _console_line
        self._least = LEVELS.index(level)
        self._source = source
        self._writer = writer
        self._tells_all = errors == "full"
        self._dropped = 0
        self._silent_until: dict[str, float] = {}  # by topic

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobsEnded):
            for outcome in event.outcomes:
                if outcome.kind != "succeeded" or self._least == 0:
                    self(JobEnded.of(outcome))
            return
        if isinstance(event, JobEnded) and not self._tells_all:
            event = replace(event, message=None, traceback=None)
        if self._is_repetition(event) or LEVELS.index(event.level) < self._least:
            return
        if self._dropped and self._writer.put(self._line(LogLinesDropped(self._dropped), self._source)):
            self._dropped = 0
        if not self._writer.put(self._line(event, self._source)):
            self._dropped += 1

    def _is_repetition(self, event: Event) -> bool:
        if self._source.startswith("pool") and "database" in (event.topic, event.ends):
            return True
        if event.ends:
            return self._silent_until.pop(event.ends, None) is None
        if not event.topic:
            return False
        if time.monotonic() < self._silent_until.get(event.topic, 0.0):
            return True
        self._silent_until[event.topic] = time.monotonic() + SAID_EVERY
        return False


def _values(event: Event) -> dict[str, Any]:
    return {field.name: getattr(event, field.name) for field in fields(event)}


def _name(event: Event) -> str:
    """JobEnded → job ended."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(event).__name__).strip()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _console_line(event: Event, source: str) -> str:
    values = _values(event)
    trace = values.pop("traceback", None) or ""
    shown = " ".join(f"{name}={_shown(value)}" for name, value in values.items() if value not in (None, ()))
    line = f"{_now()} {event.level:7} [{source}] {_name(event)} {shown}".rstrip()
    return "\n    ".join([line, *map(printable, trace.splitlines())])  # indented: no line of a trace is taken for ours


def _shown(value: object) -> str:
    """A value that cannot end before its end: names may hold anything."""
    if isinstance(value, float):
        return f"{value:.3f}"
    text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
    text = printable(text.replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{text}"' if " " in text or "\\" in text else text


def printable(text: str) -> str:
    """Text that cannot move the cursor or forge a line: rows may hold anything."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def _json_line(event: Event, source: str) -> str:
    line = {"time": _now(), "level": event.level, "source": source, "event": _name(event), **_values(event)}
    return json.dumps({key: value for key, value in line.items() if value is not None}, default=str)
