"""How a pool keeps its memory small, at little cost."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress

_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
_LARGE = 128 * 1024
"""Bytes from which a buffer gets pages of its own. Freed, such pages go back to the system at once."""


def keep_large_buffers_off_the_heap() -> None:
    """Fixes the size from which glibc counts a buffer as large. Does nothing with another C library.

    By default glibc raises the size, up to 32 MiB, whenever a large buffer is freed. Then the replies to claims, 100 KB
    and more, come from the heap. Whatever is allocated between two replies, a new connection for example, cuts the heap
    into pieces too small for a reply, and the heap grows.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)


def spare_what_is_loaded() -> None:
    """Keeps the garbage collector from looking through the program and the user's modules again and again.

    These live as long as the process. Cycles that handlers leave are collected as ever.
    """
    gc.collect()
    gc.freeze()
