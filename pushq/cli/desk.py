"""Runs a question or a change at the desk, with the database of the settings."""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import anyio
import click

from pushq.cli.options import load_settings
from pushq.desk import Desk
from pushq.exporter.lines import printable

T = TypeVar("T")


def at_desk(what: Callable[[Desk], Awaitable[T]]) -> T:
    url = load_settings().url

    async def run() -> T:
        async with Desk.opened(url) as desk:
            return await what(desk)

    return anyio.run(run)


async def hint_at_slips(desk: Desk, queues: Sequence[str]) -> None:
    """Says which of the queues no supervisor has ever served: what is chosen for a queue to come, or for a slip."""
    served = await desk.served_queues()
    for queue in queues:
        if queue != "*" and queue not in served:
            close = difflib.get_close_matches(queue, served, n=1)
            hint = f"; did you mean {printable(repr(close[0]))}?" if close else "."
            click.echo(f"pushq: No supervisor has served queue {printable(repr(queue))} yet{hint}", err=True)
