"""Runs a question or a change at the desk, with the database of the settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from pushq.cli.options import load_settings
from pushq.desk import Desk

T = TypeVar("T")


def at_desk(what: Callable[[Desk], Awaitable[T]]) -> T:
    url = load_settings().url

    async def run() -> T:
        async with Desk.opened(url) as desk:
            return await what(desk)

    return anyio.run(run)
