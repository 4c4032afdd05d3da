"""What handlers log by Python's `logging`, where nobody has configured it, and where somebody has."""

from __future__ import annotations

import contextvars
import io
import json
import logging
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from uuid import UUID

import pytest

from pushq.current import set_current_job
from pushq.exporter.logs import log_events
from pushq.exporter.records import make_records_from
from pushq.job import Job

JOB = Job(UUID(int=7), "mail.welcome", "mail", "{}", 3, 0, 0, None, None, None, None, UUID(int=8))
logger = logging.getLogger("app.mail")


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(logging.root.manager, "loggerDict", {"app.mail": logger})
    yield
    logger.handlers.clear()


@contextmanager
def fresh_root() -> Iterator[None]:
    """As in a fresh process: pytest has handlers of its own, which it sets when a test has begun."""
    handlers, level = logging.root.handlers, logging.root.level
    logging.root.handlers = []
    logging.root.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logging.root.handlers = handlers
        logging.root.setLevel(level)


def logged(
    log: Callable[[], object],
    *handlers: logging.Handler,
    form: str = "console",
    level: str = "info",
    in_a_job: bool = True,
) -> list[str]:
    """What is written when `log` is called."""
    stream = io.StringIO()
    with fresh_root(), log_events(form, level, source="pool 1", stream=stream):
        logging.root.handlers += handlers
        make_records_from(level)
        context = contextvars.copy_context()
        if in_a_job:
            context.run(set_current_job, JOB)
        context.run(log)
    return stream.getvalue().splitlines()


def test_a_record_is_a_line_like_any_other_and_names_its_job() -> None:
    (line,) = logged(lambda: logger.info("sent %d letters", 3))

    instant, rest = line.split(" ", maxsplit=1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", instant)
    assert rest == (
        "info    [pool 1] app.mail: sent 3 letters id=00000000-0000-0000-0000-000000000007 task=mail.welcome attempt=3"
    )


def test_a_record_is_a_line_of_json_for_programs() -> None:
    def log() -> None:
        try:
            raise KeyError("missing")
        except KeyError:
            logger.exception("not sent\nat all")

    (line,) = logged(log, form="json")

    shown = json.loads(line)
    assert shown.pop("time").endswith("Z")
    assert shown.pop("traceback").endswith("KeyError: 'missing'")
    assert shown == {
        "level": "error",
        "source": "pool 1",
        "logger": "app.mail",
        "message": "not sent\nat all",
        "id": str(JOB.id),
        "task": "mail.welcome",
        "attempt": 3,
    }


def test_outside_of_a_job_a_record_names_none() -> None:
    (line,) = logged(lambda: logger.warning("hello"), in_a_job=False)

    assert line.endswith("warning [pool 1] app.mail: hello")


@pytest.mark.parametrize(("level", "lines"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_what_is_quieter_than_the_level_is_not_even_made(level: str, lines: int) -> None:
    def log() -> None:
        for loudness in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logger.log(loudness, "x")

    assert len(logged(log, level=level)) == lines


def test_a_message_cannot_forge_a_line_nor_fail_its_handler() -> None:
    def log() -> None:
        logger.warning("x\n2026 info forged\x1b[31m\u2028")
        logger.warning("%d", "no number")
        try:
            raise ValueError("in\nlines")
        except ValueError:
            logger.exception("and a trace")

    forged, unfit, trace, *rest = logged(log)
    assert forged.isprintable()
    assert "%d (its arguments do not fit: TypeError)" in unfit
    assert trace.endswith("attempt=3")
    assert all(line.startswith("    ") for line in rest)


def test_who_configures_logging_has_it_his_way_and_may_name_the_job() -> None:
    own, levels = io.StringIO(), []
    handler = logging.StreamHandler(own)
    handler.setFormatter(logging.Formatter("%(pushq_job)s %(pushq_task)s %(pushq_attempt)s %(message)s"))

    def log() -> None:
        logger.info("too quiet")
        logger.warning("hello")
        levels.append(logging.root.level)

    ours = logged(log, handler)

    assert (ours, levels) == ([], [logging.WARNING])
    assert own.getvalue() == f"{JOB.id} mail.welcome 3 hello\n"


def test_to_configure_it_later_still_does_what_it_does() -> None:
    """`basicConfig` does nothing where there is a handler already."""
    own = io.StringIO()

    def log() -> None:
        logger.warning("before")
        logging.basicConfig(stream=own, format="%(message)s")
        logger.warning("after")

    (line,) = logged(log)

    assert "before" in line
    assert own.getvalue() == "after\n"


def test_the_functions_of_logging_itself_configure_nothing() -> None:
    """`logging.info(…)` calls `basicConfig()` where the root has no handler."""

    def log() -> None:
        logging.info("by the module")  # noqa: LOG015 - as a beginner does
        logger.info("by a logger")
        assert not logging.root.handlers

    first, second = logged(log)

    assert re.search(r"info    \[pool 1\] root: by the module id=\S+ task=mail.welcome attempt=3$", first)
    assert re.search(r"info    \[pool 1\] app.mail: by a logger id=\S+ task=mail.welcome attempt=3$", second)


def test_a_library_that_says_nothing_for_itself_is_not_a_configuration() -> None:
    logging.getLogger("some.library").addHandler(logging.NullHandler())

    assert len(logged(lambda: logger.info("hello"))) == 1


def test_after_it_everything_is_as_it_was() -> None:
    before = (logging.getLogRecordFactory(), logging.lastResort)
    logged(lambda: logger.warning("x"))

    assert (logging.getLogRecordFactory(), logging.lastResort) == before


def test_a_child_that_a_handler_forks_writes_its_own_lines() -> None:
    """The thread that writes them does not live there."""
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream, fresh_root(), log_events("console", "info", source="pool", stream=stream):
        if (child := os.fork()) == 0:
            logger.warning("from the child")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    with os.fdopen(reader) as lines:
        assert "app.mail: from the child" in lines.read()
