"""Records that handlers and libraries log by Python's `logging`: each record knows its job.

Unless the user configures `logging`, records are written like pushq's own events, in the same format and at the same
level. A user's own configuration is left alone, and may use the fields of the job: `%(pushq_task)s`.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from pushq.current import job_here
from pushq.exporter.lines import instant, printable, shown
from pushq.job import Job

_FIELDS = {"id": "pushq_job", "task": "pushq_task", "attempt": "pushq_attempt", "trace": "pushq_trace"}
"""From names in a line to fields of a record."""


@contextmanager
def log_records(form: str, level: str, source: str, write: Callable[[str], None]) -> Iterator[None]:
    """Logs records inside the block, in place of Python's last resort, which writes the bare message and may block."""
    make, last_resort, configure = logging.getLogRecordFactory(), logging.lastResort, logging.basicConfig
    logging.setLogRecordFactory(_knowing_its_job(make))
    logging.lastResort = _Records(form, level, source, write)
    logging.basicConfig = _if_asked_to(configure)
    try:
        yield
    finally:
        logging.basicConfig = configure
        logging.lastResort = last_resort
        logging.setLogRecordFactory(make)


def _if_asked_to(configure: Callable[..., None]) -> Callable[..., None]:
    """As basicConfig, unless `logging` itself calls: `logging.info(…)` would configure `logging` for good."""

    @wraps(configure)
    def basic_config(**how: Any) -> None:
        if sys._getframe(1).f_globals is not vars(logging):  # noqa: SLF001
            configure(**how)

    return basic_config


def make_records_from(level: str) -> None:
    """Lowers or raises the root logger's level, `warning` by default, unless the user has configured `logging`."""
    loggers = [logging.root, *logging.root.manager.loggerDict.values()]
    handlers = [handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers]
    if logging.root.level == logging.WARNING and all(isinstance(one, logging.NullHandler) for one in handlers):
        logging.root.setLevel(level.upper())


def _knowing_its_job(make: Callable[..., logging.LogRecord]) -> Callable[..., logging.LogRecord]:
    def make_record(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record, job = make(*args, **kwargs), job_here()
        record.pushq_job = str(job.id) if job else None
        record.pushq_task = job.task if job else None
        record.pushq_attempt = job.attempt if job else None
        record.pushq_trace = _trace_of(job)
        return record

    return make_record


def _trace_of(job: Job | None) -> str | None:
    """The id of the trace in which the job was inserted."""
    traceparent = job.traceparent if job else None
    return traceparent[3:35] if traceparent else None


class _Records(logging.Handler):
    def __init__(self, form: str, level: str, source: str, write: Callable[[str], None]) -> None:
        super().__init__(level.upper())
        self._line = _json_line if form == "json" else _console_line
        self._source = source
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(self._line(record, self._source))


def _console_line(record: logging.LogRecord, source: str) -> str:
    fields = "".join(f" {name}={shown(value)}" for name, value in _job_of(record).items() if value is not None)
    name, message = printable(record.name), printable(_message(record))
    line = f"{instant(record.created)} {printable(record.levelname.lower()):7} [{source}] {name}: {message}{fields}"
    return "\n    ".join([line, *map(printable, _trace(record).splitlines())])


def _json_line(record: logging.LogRecord, source: str) -> str:
    line = {
        "time": instant(record.created),
        "level": record.levelname.lower(),
        "source": source,
        "logger": record.name,
        "message": _message(record),
        **_job_of(record),
        "traceback": _trace(record) or None,
    }
    return json.dumps({name: value for name, value in line.items() if value is not None})


def _job_of(record: logging.LogRecord) -> dict[str, object]:
    fields = vars(record)  # a record may come from elsewhere than the factory
    return {name: fields.get(field) for name, field in _FIELDS.items()}


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except Exception as error:  # noqa: BLE001 - an argument of the user's must not fail the user's handler
        return f"{record.msg!s:.1000} (its arguments do not fit: {type(error).__name__})"


def _trace(record: logging.LogRecord) -> str:
    text = logging.Formatter().formatException(record.exc_info) if record.exc_info else ""
    return "\n".join(filter(None, (text, record.stack_info)))
