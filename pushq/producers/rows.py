"""Jobs as the lines of a COPY: only the columns that some job needs.                                    (pure)

The format is PostgreSQL's text format: https://www.postgresql.org/docs/current/sql-copy.html#SQL-COPY-FILE-FORMATS
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import groupby, islice
from operator import attrgetter
from typing import Any, TypeAlias

from pushq.job import NewJob

Columns: TypeAlias = tuple[str, ...]
Part: TypeAlias = tuple[Columns, Iterable[bytes]]
"""One COPY: its columns, and its lines, some hundred in a piece."""

AT_A_TIME = 500
"""Jobs in a piece. Making a piece keeps an event loop from other work for some 5 ms."""
_ALWAYS = ("task", "payload", "queue", "priority")


def parts(
    jobs: Iterable[NewJob], payload: Callable[[NewJob], str], queue: str | None, traceparent: str | None = None
) -> Iterator[Part]:
    """Jobs as few COPYs, in their order. A COPY ends where the columns change that jobs need.

    queue: instead of the jobs' own. traceparent: of jobs that have none of their own.

    Jobs are taken while their lines are read, so that the client makes jobs while the server inserts others.
    """
    jobs = jobs if traceparent is None else _placed(jobs, traceparent)
    pieces = ((_columns(piece), piece) for piece in _pieces(jobs))
    for columns, alike in groupby(pieces, key=lambda each: each[0]):
        yield columns, (_lines(piece, columns[len(_ALWAYS) :], payload, queue) for _, piece in alike)


def _placed(jobs: Iterable[NewJob], traceparent: str) -> Iterator[NewJob]:
    for job in jobs:
        yield job if _has_place(job) else replace(job, traceparent=traceparent)


def _has_place(job: object) -> bool:
    return not isinstance(job, NewJob) or job.traceparent is not None


def _pieces(jobs: Iterable[NewJob]) -> Iterator[list[NewJob]]:
    for _, alike in groupby(jobs, key=_has_id):  # COPY has no word for "the default", which other columns do not need
        while piece := list(islice(alike, AT_A_TIME)):
            yield piece


def _has_id(job: NewJob) -> bool:
    if not isinstance(job, NewJob):
        raise TypeError(f"Queue.copy takes jobs, not a {type(job).__name__}: task.job(…), or NewJob('task', {{…}}).")
    return job.id is not None


def _columns(jobs: Sequence[NewJob]) -> Columns:
    return _ALWAYS + tuple(name for name in _OPTIONAL if _is_in_use(name, jobs))


def _is_in_use(name: str, jobs: Sequence[NewJob]) -> bool:
    return list(map(attrgetter(name), jobs)).count(None) < len(jobs)


def _lines(jobs: Iterable[NewJob], optional: Columns, payload: Callable[[NewJob], str], queue: str | None) -> bytes:
    lines = [
        f"{_text(job.task)}\t{payload(job).replace(_SLASH, _SLASH * 2)}\t{_text(queue or job.queue)}"
        f"\t{_text(job.priority)}{_more(job, optional) if optional else ''}\n"
        for job in jobs
    ]
    return "".join(lines).encode()


def _more(job: NewJob, columns: Columns) -> str:
    return "".join("\t" + _OPTIONAL[name](getattr(job, name)) for name in columns)


_SLASH = "\\"


def _text(value: object) -> str:
    text = str(value)
    if text.isidentifier():
        return text
    return text.replace(_SLASH, _SLASH * 2).replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _text_or_null(value: object) -> str:
    return "\\N" if value is None else _text(value)


def _instant(value: Any) -> str:
    return "now" if value is None else str(value.isoformat())


def _interval(value: timedelta | None) -> str:
    return interval(value) if value else _text_or_null(value)


def interval(value: timedelta) -> str:
    """As PostgreSQL reads an interval."""
    return f"{value.days} days {value.seconds}.{value.microseconds:06} seconds"


_OPTIONAL: dict[str, Callable[[Any], str]] = {
    "run_at": _instant,
    "max_attempts": _text_or_null,
    "timeout": _interval,
    "unique_key": _text_or_null,
    "tenant_id": _text_or_null,
    "correlation_id": _text_or_null,
    "id": _text,
    "traceparent": _text_or_null,
    "webhook_url": _text_or_null,
    "needs": lambda needs: _text_or_null(needs and json.dumps(needs)),
    "limit_key": _text_or_null,
    "affinity": _text_or_null,
}
