"""The files of an example, and the statements of the app that moves in, as they were before."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import asyncpg

from tests.support.supervisors import ROOT, RunningSupervisor, supervising

EXAMPLES = ROOT / "docs" / "examples"


@cache
def statements(example: str) -> Mapping[str, str]:
    """By name. Arguments are written $1, and a worker's name %s, as in the app."""
    text = (Path(__file__).parent / "old" / f"{example}.sql").read_text()
    return dict(re.findall(r"^-- ([A-Z_]+)\n(.*?)(?=^-- |\Z)", text, re.MULTILINE | re.DOTALL))


async def apply(url: str, example: str, *names: str) -> None:
    """Runs files of an example, each in one go, as `psql -f` does."""
    connection = await asyncpg.connect(url)
    try:
        for name in names:
            await connection.execute((EXAMPLES / example / name).read_text())
    finally:
        await connection.close()


@contextmanager
def supervising_example(url: str, example: str, *flags: str) -> Iterator[RunningSupervisor]:
    """`pushq supervise tasks:tasks` in the example's folder."""
    with supervising(url, *flags, tasks="tasks:tasks", directory=str(EXAMPLES / example)) as supervisor:
        yield supervisor
