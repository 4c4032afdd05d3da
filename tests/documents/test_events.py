"""docs/reference/events.md names every event that the log shows, with its level and fields."""

from __future__ import annotations

import re
from dataclasses import fields

from pushq import events
from pushq.events import Event, JobEnded, JobsEnded
from pushq.outcome import Kind
from tests.documents.rows import REFERENCE, rows
from tests.support.supervisors import ROOT

PAGE = rows(REFERENCE / "events.md")
EVENTS = [kind for kind in vars(events).values() if isinstance(kind, type) and issubclass(kind, Event)]


def test_the_page_names_every_event_with_its_level_and_fields() -> None:
    logged = {_line(kind): kind for kind in EVENTS if kind not in (Event, JobsEnded)}
    assert logged.keys() == {name for name, cells in PAGE.items() if len(cells) == 4}
    for name, kind in logged.items():
        level, shown, meaning, remedy = PAGE[name]
        assert shown == (", ".join(field.name for field in fields(kind)) or "none"), name
        assert level == _level(kind), name
        assert meaning, name
        assert remedy, name


def _line(kind: type[Event]) -> str:
    """JobEnded → job ended, as in the log."""
    return re.sub(r"(?<!^)([A-Z])", r" \1", kind.__name__).lower()


def _level(kind: type[Event]) -> str:
    if kind is JobEnded:
        return "by outcome"
    level = "always" if kind.is_always_logged else kind.level
    return f"{level}, once a minute" if kind.topic else level


def test_the_page_names_every_outcome_with_its_level() -> None:
    for kind in Kind:
        assert PAGE[kind][0] == events._LOUD_OUTCOMES.get(kind, "debug"), kind


def test_the_page_names_every_chore() -> None:
    code = "".join(path.read_text() for path in (ROOT / "pushq").rglob("*.py"))
    chores = {*re.findall(r'_try\("(\w+)"', code), *re.findall(r'ChoreFailed\("(\w+)"', code)}
    chores |= set(re.findall(r'^CHORE = "(\w+)"', code, re.MULTILINE))
    assert len(chores) == 15
    assert chores <= PAGE.keys()
