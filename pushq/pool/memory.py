"""What a pool does so that its memory does not grow with time."""

from __future__ import annotations

import ctypes
from contextlib import suppress

_M_MMAP_THRESHOLD = -3  # malloc.h of glibc
_LARGE = 128 * 1024
"""Bytes from which on a buffer gets pages of its own, which go back to the system when the buffer is freed."""


def keep_large_buffers_off_the_heap() -> None:
    """Fixes the size that glibc counts as large.

    By itself glibc raises that size, up to 32 MiB, whenever a large buffer is freed. The replies to claims, of 100 KB
    and more, then come from the heap; what is allocated between them, such as a new connection, cuts the heap into
    pieces that no reply fits into; and the heap grows. Does nothing with another C library.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE)
