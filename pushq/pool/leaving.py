"""How a pool's process ends: as any program's, but in time. Threads that never return do not keep it."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from contextlib import suppress
from typing import NoReturn

LAST_WORDS = 5.0
"""Seconds for what the user's modules do at exit, and for the tasks that handlers have left."""
LAST_WORDS_OF_A_FAULT = 1.0
"""The same where the pool ends by a fault: its jobs wait to be requeued."""


def call_exit_functions() -> None:
    """The functions of `atexit`, as at the end of any program. Python has no public name for this."""
    atexit._run_exitfuncs()  # noqa: SLF001


def be_gone_within(seconds: float) -> None:
    """Whatever hangs: what is left to be done, or somebody who should read what is left to be written.

    The kernel ends the process: it needs no thread for that, of which there may be none, and no turn at the GIL.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM,))
    signal.setitimer(signal.ITIMER_REAL, seconds)


def leave(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # whoever read what handlers print is gone
            stream.flush()
    os._exit(code)
