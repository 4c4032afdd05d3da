"""Writes events to standard error, one event a line: for people, or as JSON. Never a payload, never a password."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from typing import Any, TextIO

from pushq.events import LEVELS, Event, JobEnded, JobsEnded, LogLinesDropped, subscribe
from pushq.exporter.lines import LineWriter, instant, printable, shown
from pushq.exporter.records import log_records

SAID_EVERY = 60.0
"""Seconds between two lines of one topic and reason, whose events are published again and again."""
MOST_REASONS = 3
"""So many reasons of a topic are told in SAID_EVERY seconds. An outage's first reason is seldom the lasting one."""


@contextmanager
def log_events(
    form: str, level: str, errors: str = "brief", *, source: str, stream: TextIO | None = None
) -> Iterator[None]:
    """Logs events of `level` and above, inside the block.

    form: console or json. source: the name of the process in each line. errors: as PUSHQ_LOG_ERRORS.
    """
    writer = LineWriter(stream or sys.stderr)
    log = Log(form, level, source, writer, errors)
    try:
        with subscribe(log), log_records(form, level, source, log.write):
            yield
    finally:
        writer.close()


class Log:
    """A subscriber.

    Events of a topic are logged once a minute for each reason. Outages of the database are logged by the supervisor
    alone.
    """

    def __init__(self, form: str, level: str, source: str, writer: LineWriter, errors: str = "brief") -> None:
        self._line = _json_line if form == "json" else _console_line
        self._least = LEVELS.index(level)
        self._source = source
        self._writer = writer
        self._tells_all = errors == "full"
        self._dropped = 0
        self._silent_until: dict[str, dict[str, float]] = {}  # by topic and reason

    def __call__(self, event: Event) -> None:
        if isinstance(event, JobsEnded):
            for outcome in event.outcomes:
                if outcome.kind != "succeeded" or self._least == 0:
                    self(JobEnded.of(outcome))
            return
        if isinstance(event, JobEnded) and not self._tells_all:
            event = replace(event, message=None, traceback=None)
        if self._is_repetition(event) or not (event.is_always_logged or LEVELS.index(event.level) >= self._least):
            return
        self.write(self._line(event, self._source))

    def write(self, line: str) -> None:
        """May be called from any thread, since handlers log as well."""
        if self._dropped and self._writer.put(self._line(LogLinesDropped(self._dropped), self._source)):
            self._dropped = 0
        if not self._writer.put(line):
            self._dropped += 1

    def _is_repetition(self, event: Event) -> bool:
        if self._source != "supervisor" and "database" in (event.topic, event.ends):
            return True
        if event.ends:
            return self._silent_until.pop(event.ends, None) is None
        if not event.topic:
            return False
        now = time.monotonic()
        told = {why: until for why, until in self._silent_until.get(event.topic, {}).items() if now < until}
        self._silent_until[event.topic] = told
        reason = getattr(event, "reason", "")
        if reason in told or len(told) >= MOST_REASONS:
            return True
        told[reason] = now + SAID_EVERY
        return False


def _values(event: Event) -> dict[str, Any]:
    return {field.name: getattr(event, field.name) for field in fields(event)}


def _name(event: Event) -> str:
    """JobEnded → job ended."""
    return "".join(f" {letter.lower()}" if letter.isupper() else letter for letter in type(event).__name__).strip()


def _console_line(event: Event, source: str) -> str:
    values = _values(event)
    trace = values.pop("traceback", None) or ""
    told = " ".join(f"{name}={shown(value)}" for name, value in values.items() if value not in (None, ()))
    line = f"{instant()} {event.level:7} [{source}] {_name(event)} {told}".rstrip()
    return "\n    ".join([line, *map(printable, trace.splitlines())])  # indented, unlike the line of an event


def _json_line(event: Event, source: str) -> str:
    line = {"time": instant(), "level": event.level, "source": source, "event": _name(event), **_values(event)}
    return json.dumps({key: value for key, value in line.items() if value is not None}, default=str)
