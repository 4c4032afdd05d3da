"""Reaps orphans: the first process of a container inherits every process whose parent has ended."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress

import anyio

INTERVAL = 1.0
"""Seconds between two looks for orphans."""


async def reap_orphans(is_ours: Callable[[int], bool]) -> None:
    """Reaps ended children that are no pools. Returns at once unless this process is the first (PID 1)."""
    while os.getpid() == 1:
        await anyio.sleep(INTERVAL)
        with suppress(ChildProcessError):  # there are no children
            _reap(is_ours)


def _reap(is_ours: Callable[[int], bool]) -> None:
    while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
        if is_ours(ended.si_pid):
            return  # a pool: the supervisor waits for pools itself, and orphans wait for the next look
        os.waitpid(ended.si_pid, os.WNOHANG)
