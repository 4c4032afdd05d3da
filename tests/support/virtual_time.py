"""An event loop whose clock stands still while somebody works, and jumps to the next timer when nobody does."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    """Where a loop would wait for a timer, the time is moved to it."""

    now = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and nothing will ever happen"
        self.now += max(0.0, timeout)
        return super().select(0)


class _Loop(asyncio.SelectorEventLoop):
    def __init__(self, selector: _Selector) -> None:
        self._clock = selector
        super().__init__(selector)

    def time(self) -> float:
        return self._clock.now


def run_in_virtual_time(main: Callable[[Callable[[], float]], Coroutine[Any, Any, T]]) -> T:
    """Runs main(clock), and returns its result. clock takes the place of time.monotonic."""
    selector = _Selector()
    with asyncio.Runner(loop_factory=lambda: _Loop(selector)) as runner:
        return runner.run(main(lambda: selector.now))
