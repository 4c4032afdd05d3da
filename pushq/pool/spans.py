"""Sends the spans of the last attempts before the process ends."""

from __future__ import annotations

from math import inf

import anyio
from anyio import to_thread

from pushq.events import SpansLost, publish
from pushq.pool.leaving import LAST_WORDS, LAST_WORDS_OF_A_FAULT, begin_last_words
from pushq.spans import span_maker

LEAST = 0.5
"""Seconds for sending, at least: handlers may have used up the grace period."""
LONGEST = LAST_WORDS - LAST_WORDS_OF_A_FAULT
"""Seconds for sending, at most: a collector that does not answer must not hold up a restart, and exporters often send
once more when the interpreter ends."""


async def flush_spans(by: float) -> None:
    """Waits until the spans are sent, or until that instant of the event loop's clock."""
    if maker := span_maker():
        seconds = min(LONGEST, max(LEAST, by - anyio.current_time())) if by < inf else LONGEST
        begin_last_words()
        are_sent = False
        with anyio.move_on_after(seconds):
            are_sent = await to_thread.run_sync(maker.flush, seconds, abandon_on_cancel=True)
        if not are_sent:
            publish(SpansLost(seconds))
