"""The conductor: says when inserters may begin, and when there is a hush."""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import anyio

HUSH = (0.19, 0.28)
"""Seconds in which nobody begins: longer than a job may wait, so that a wake-up that was lost is seen to be lost."""


Solo = Callable[[], Coroutine[Any, Any, None]]


class Conductor:
    """Now all of them, now one alone or one of each group, and a hush after each."""

    def __init__(self, chance: random.Random) -> None:
        self._chance = chance
        self._cue = anyio.Event()

    async def wait_cue(self) -> None:
        await self._cue.wait()

    async def run(self, groups: Sequence[Sequence[Solo]], curtain: anyio.Event) -> None:
        """Until the curtain falls; then lets everybody go. The groups do not wake one another's pools."""
        while not curtain.is_set():
            await self._let_all_begin()
            for _ in range(self._chance.randint(4, 8)):
                async with anyio.create_task_group() as together:
                    for solos in self._chance.sample(groups, self._chance.choice((1, len(groups)))):
                        together.start_soon(self._chance.choice(solos))
                await self._hush()
        self._cue.set()

    async def _let_all_begin(self) -> None:
        self._cue.set()
        await anyio.sleep(self._chance.uniform(0.05, 0.4))
        self._cue = anyio.Event()
        await anyio.sleep(0.1)
        await self._hush()

    async def _hush(self) -> None:
        await anyio.sleep(self._chance.uniform(*HUSH))
