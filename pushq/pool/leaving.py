"""How a pool's process ends: like any program, but in time. Threads that never return do not keep the process."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from time import monotonic
from typing import NoReturn

LAST_WORDS = 5.0
"""Seconds for the spans of the last attempts, the exit functions of the user's modules, and the tasks left by handlers,
together."""
LAST_WORDS_OF_A_FAULT = 1.0
"""The same for a pool that ends by a fault, and whose jobs wait to be requeued."""
_SOON = 0.1
"""Seconds for what is left, if the last words have taken all their time. Zero would switch the alarm off."""
_begun: list[float] = []
"""When the last words began, if they have."""


def begin_last_words() -> None:
    """From now on, the process has LAST_WORDS seconds: what hangs takes time from what comes after."""
    _begun[:] = [monotonic()]


def call_exit_functions() -> None:
    """Calls the functions of `atexit`, as the interpreter does. Python has no public name for that."""
    atexit._run_exitfuncs()  # noqa: SLF001


def be_gone_within(seconds: float) -> None:
    """Has the kernel end the process after so many seconds, whatever hangs by then; earlier if its last words are over.

    A thread could not: the process may get no more threads, or another thread may keep the GIL.
    """
    if _begun:
        seconds = max(_SOON, min(seconds, _begun[0] + LAST_WORDS - monotonic()))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
    signal.setitimer(signal.ITIMER_REAL, seconds)


def leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # the reader of the handlers' output is gone
            stream.flush()
    os._exit(code)
