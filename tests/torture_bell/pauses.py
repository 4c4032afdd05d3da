"""Random pauses around every step that a pool takes with its gate, so that others come in between."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable

import anyio

from tests.support.store import Store

LONGEST = 0.008
"""Seconds."""
CHANCE = 0.3
STEPS = ("open_gate", "gate_passers", "shut_gate", "claim", "next_due")


def pause_between_steps() -> None:
    for name in STEPS:
        setattr(Store, name, _with_pauses(getattr(Store, name)))


def _with_pauses(step: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
    async def paused(*arguments: object) -> object:
        await _pause()
        reply = await step(*arguments)
        await _pause()
        return reply

    return paused


async def _pause() -> None:
    if random.random() < CHANCE:
        await anyio.sleep(random.uniform(0, LONGEST))
