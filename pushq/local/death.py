"""Processes that end with their parent, however the parent ends. Works on Linux only."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Makes the kernel send this process a signal when the parent dies. Exits at once if the parent is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:
        os._exit(1)


def dying_with_us(by: signal.Signals) -> Callable[[], None] | None:
    """The same for a child, as a `preexec_fn`, which runs between fork and exec. None: not on this system.

    The child gets the signal when the thread that started the child ends.
    """
    if sys.platform != "linux":
        return None
    parent, libc = os.getpid(), ctypes.CDLL(None)  # loaded before the fork: a forked child should do little

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, by)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
