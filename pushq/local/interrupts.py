"""Ctrl-C and SIGTERM, kept waiting while something starts or stops: cut in half, it would leave processes behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupts:
    """Notes SIGINT and SIGTERM for the length of a `with` block, which then ends with KeyboardInterrupt."""

    def __init__(self) -> None:
        self._came = False

    def __enter__(self) -> Self:
        self._before = {number: signal.signal(number, self._note) for number in _SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self._came:  # a terminal's Ctrl-C reaches the children too: that they fail then is no error
            raise KeyboardInterrupt from None

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """In here they are obeyed, and at once if one has come before."""
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
