"""What raises in a tracer is the app's: its sampler, its span processor. Jobs go on, and the log tells of the fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from pushq.events import SpansFail, publish
from pushq.trace import trace

T = TypeVar("T")


def unless_it_raises(call: Callable[[], T]) -> T | None:
    try:
        return call()
    except Exception as error:  # noqa: BLE001 - of the app's code, and told
        found = trace(error)
        publish(SpansFail(type(error).__name__, found.place if found else None))
        return None
