"""Processes that end with their parent, however the parent ends. Only Linux knows how."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable

_PR_SET_PDEATHSIG = 1


def die_with(parent: int, by: signal.Signals = signal.SIGKILL) -> None:
    """Has the kernel send this process a signal when its parent dies. Exits at once if the parent is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:
        os._exit(1)


def dying_with_us(by: signal.Signals) -> Callable[[], None] | None:
    """The same for a child: a `preexec_fn`, called between fork and exec. The signal follows the calling thread."""
    if sys.platform != "linux":
        return None
    parent, libc = os.getpid(), ctypes.CDLL(None)  # loaded here: a forked child should do as little as it can

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, by)
        if os.getppid() != parent:
            os._exit(1)

    return prepare
