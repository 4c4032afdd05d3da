"""Defers Ctrl-C and SIGTERM while something starts or stops. A start cut in half would leave processes behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Defers SIGINT and SIGTERM to the end of a `with` block, which then raises KeyboardInterrupt."""

    def __init__(self) -> None:
        self._came = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._came:  # a terminal's Ctrl-C reaches the children as well, whose failure is then no error
            raise KeyboardInterrupt from None

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """A block in which signals raise KeyboardInterrupt. A deferred signal raises at the start of the block."""
        try:
            for number in _SIGNALS:
                signal.signal(number, signal.default_int_handler)
            if self._came:
                raise KeyboardInterrupt
            yield
        finally:
            for number in _SIGNALS:
                signal.signal(number, self._note)

    def _note(self, *_: object) -> None:
        self._came = True
