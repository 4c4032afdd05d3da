"""Sends the spans of the last attempts before the process ends."""

from __future__ import annotations

from math import inf

import anyio
from anyio import to_thread

from pushq.spans import span_maker

LEAST = 0.5
"""Seconds for sending, at least: handlers may have used up the grace period."""
LONGEST = 5.0
"""Seconds for sending, at most: a collector that does not answer must not hold up a restart."""


async def flush_spans(by: float) -> None:
    """Waits until the spans are sent, or until that instant of the event loop's clock."""
    if maker := span_maker():
        seconds = min(LONGEST, max(LEAST, by - anyio.current_time())) if by < inf else LONGEST
        with anyio.move_on_after(seconds):
            await to_thread.run_sync(maker.flush, seconds, abandon_on_cancel=True)
