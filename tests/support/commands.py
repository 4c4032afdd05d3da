"""Commands in our own process: a tenth of the time of a new one, where nothing but what is said matters."""

from __future__ import annotations

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor

from click.testing import CliRunner, Result

from pushq.cli import cli


def invoke(*arguments: str, url: str | None = None, **settings: str) -> Result:
    """Runs a command to its end: exit_code, stdout, stderr. An exception that is not meant for the user rises.

    The HTTP port is any free one, unless settings name another. A command that obeys signals must be a process.
    """
    variables = dict.fromkeys(name for name in os.environ if name.startswith(("PUSHQ_", "PG")))
    variables |= {f"PUSHQ_{name}": value for name, value in ({"HTTP_PORT": "0"} | settings).items()}
    variables |= {"PUSHQ_DATABASE_URL": url} if url else {}
    ended = _run(CliRunner(env=variables), arguments)
    if ended.exception and not isinstance(ended.exception, SystemExit):
        raise ended.exception
    return ended


def _run(runner: CliRunner, arguments: tuple[str, ...]) -> Result:
    """A command has an event loop of its own: in a test that has a loop too, the command runs in a thread."""
    if asyncio._get_running_loop() is None:
        return runner.invoke(cli, arguments, prog_name="pushq")
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(runner.invoke, cli, arguments, prog_name="pushq").result()
