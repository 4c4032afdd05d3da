"""Reaps orphans. The first process of a container inherits every process there whose parent has ended."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import anyio

INTERVAL = 1.0


async def reap_orphans(is_ours: Callable[[int], bool]) -> None:
    """Takes note that children have ended who are none of ours. Does nothing where another process is the first."""
    while os.getpid() == 1:
        await anyio.sleep(INTERVAL)
        with suppress(ChildProcessError):  # there are no children
            _reap(is_ours)


def _reap(is_ours: Callable[[int], bool]) -> None:
    while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if is_ours(ended.si_pid):
            return  # somebody waits for it: the next time
        os.waitpid(ended.si_pid, os.WNOHANG)
