"""Shows model_server on real processes: `./run.sh`, or `python run.py`.

Without PUSHQ_DATABASE_URL, on a PostgreSQL of its own. Else in that database, which is as before afterwards, except for
pushq's schema. A database with a table `jobs` in the schema public, or with jobs in the view, is left alone.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
import asyncpg
from fake_model import FakeModel  # type: ignore[import-not-found]

from pushq.errors import PushqError
from pushq.local.death import dying_with_us
from pushq.local.interrupts import Interrupts
from pushq.local.server import EmbeddedServer

if TYPE_CHECKING:
    Connection: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    Connection = asyncpg.Connection

HERE = Path(__file__).resolve().parent
MODELS = ["gemma", "llama", "mistral", "qwen"]
CHATS = 40
EVERY = 0.08
"""Seconds from one chat to the next."""
LOAD = 0.3
WORK = 0.05
TURN = 1.0
SETTLED_AFTER = 1.0
"""Seconds that pushq may take beyond a turn: see docs/how-to/affinity.md."""

READY = "SELECT EXISTS (SELECT FROM pushq.supervisors WHERE 'foreman' = ANY(queues) AND workers > 0)"
WAITS = """
SELECT max(extract(epoch FROM started_at - created_at))::float8 AS longest,
    extract(epoch FROM max(completed_at) - min(created_at))::float8 AS took,
    count(*) FILTER (WHERE state = 'done') AS done
FROM public.jobs
"""


@dataclass
class Told:
    """What a run has shown. arrived: the models of the chats, in order."""

    loads: int
    longest: float
    took: float
    arrived: list[str]


def main() -> None:
    try:
        with Interrupts() as interrupts, ExitStack() as running:
            url = os.environ.get("PUSHQ_DATABASE_URL")
            if not url:
                say("starting a PostgreSQL")
                url = running.enter_context(EmbeddedServer()).url()
            with interrupts.allowed():
                asyncio.run(show(url))
    except KeyboardInterrupt:
        say("stopped; nothing is left running")
        sys.exit(130)
    except PushqError as error:
        sys.exit(str(error))


async def show(url: str) -> None:
    migrated = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "pushq", "migrate"), env=environment(url), cwd=HERE, stdout=subprocess.DEVNULL
    )
    if await migrated.wait():
        raise PushqError("`pushq migrate` failed.")
    connection = await asyncpg.connect(url)
    try:
        await show_upon(connection, url)
    finally:
        await connection.close()


async def show_upon(connection: Connection, url: str) -> None:
    before = await connection.fetchval("SELECT relkind FROM pg_class WHERE oid = to_regclass('public.jobs')")
    if before not in (None, b"v"):
        raise PushqError("jobs is a table: README.md says how to move it; name another database for this show.")
    if before and await connection.fetchval("SELECT EXISTS (SELECT FROM public.jobs)"):
        raise PushqError("jobs has jobs, which this show's worker would run; name another database.")
    turn = await connection.fetchval("SELECT turn FROM pushq.queues WHERE name = 'foreman'")
    await connection.execute((HERE / "schema.sql").read_text())
    try:
        say(f"{CHATS} chats with {len(MODELS)} models, one each {EVERY:g} s, and one worker.")
        say(f"The model server holds one model. A load takes {LOAD:g} s, an answer {WORK:g} s.\n")
        fifo = await run(connection, url, "first in, first out", turn=0)
        drained = await run(connection, url, f"by affinity, turns of {TURN:g} s", turn=TURN)
        tell(fifo, drained)
    finally:
        await connection.execute("DELETE FROM pushq.jobs WHERE queue = 'foreman'")
        if before:
            await connection.execute("SELECT pushq.set_turn('foreman', $1)", turn)
        else:
            await connection.execute((HERE / "rollback.sql").read_text() + "DROP TABLE public.artifacts, public.jobs")


async def run(connection: Connection, url: str, name: str, *, turn: float) -> Told:
    """A fresh model, worker and server take the same stream of chats."""
    await connection.execute("DELETE FROM pushq.jobs WHERE queue = 'foreman'")
    await connection.execute("SELECT pushq.set_turn('foreman', $1::float8 * interval '1 second')", turn)
    model = FakeModel(LOAD, WORK)
    async with model.served() as model_url:
        with services(url, model_url) as server_url:
            await wait_for_a_worker(connection)
            arrived = await stream(server_url)
    row = await connection.fetchrow(WAITS)
    assert row
    if row["done"] != CHATS or model.unloaded:
        raise PushqError(f"{row['done']} of {CHATS} chats are done; unloaded models worked: {model.unloaded}")
    told = Told(len(model.loads), row["longest"], row["took"], arrived)
    figures = f"{told.loads:>3} loads, longest wait {told.longest:5.1f} s, all done after {told.took:5.1f} s"
    say(f"{name + ':':<30} {figures}")
    return told


async def wait_for_a_worker(connection: Connection) -> None:
    with anyio.fail_after(60):
        while not await connection.fetchval(READY):  # noqa: ASYNC110
            await anyio.sleep(0.05)


async def stream(server_url: str) -> list[str]:
    """Each chat by a caller of its own, who waits for the answer. Returns the models, in order."""
    dice = random.Random(7)
    models = [dice.choice(MODELS) for _ in range(CHATS)]
    async with anyio.create_task_group() as group:
        for number, model in enumerate(models):
            group.start_soon(chat, server_url, model, f"chat {number}")
            await anyio.sleep(EVERY)
    return models


async def chat(server_url: str, model: str, content: str) -> None:
    body = {"model": model, "messages": [{"role": "user", "content": content}]}
    answer = await anyio.to_thread.run_sync(
        lambda: post(f"{server_url}/api/chat", body), limiter=_callers, abandon_on_cancel=True
    )
    if answer["message"]["content"] != f"You said: {content}":
        raise PushqError(f"{content} got the answer of another: {answer}")


_callers = anyio.CapacityLimiter(CHATS)


def post(url: str, body: object) -> Any:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})  # noqa: S310
    with urllib.request.urlopen(request, timeout=90) as response:  # noqa: S310 - the URL is our own server's
        return json.load(response)


def tell(fifo: Told, drained: Told) -> None:
    say(f"\nIn the order of their arrival, the chats change the model {changes(fifo.arrived)} times.")
    bound = len(MODELS) * (TURN + SETTLED_AFTER + LOAD)
    say(f"No wait is longer than a turn, {SETTLED_AFTER:g} s and a load for each model: {bound:g} s.")
    if drained.loads >= fifo.loads:
        raise PushqError("There were no fewer loads.")
    if drained.longest > bound:
        raise PushqError(f"A chat has waited for {drained.longest:.1f} s.")


def changes(models: list[str]) -> int:
    """How often the model changes, the first load included."""
    return 1 + sum(before != after for before, after in pairwise(models))


# Processes ------------------------------------------------------------------------------------------------------------


@contextmanager
def services(url: str, model_url: str) -> Iterator[str]:
    """The supervisor and the server, whose URL is yielded."""
    foreman = {"FOREMAN_OLLAMA_URL": model_url, "FOREMAN_LISTEN": "127.0.0.1:0"}
    worker = ("-m", "pushq", "supervise", "tasks:tasks", "--concurrency=1", "--http-port=0", "--shutdown-timeout=2")
    with (
        service(url, foreman, *worker),
        service(url, foreman, "server.py") as server,
    ):
        assert server.stdout
        line = server.stdout.readline().decode()
        if not line.startswith("listening on "):
            raise PushqError("The server has not started.")
        yield line.removeprefix("listening on ").strip()


@contextmanager
def service(url: str, variables: dict[str, str], *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """In a session of its own, which Ctrl-C does not reach. Dies with this program."""
    process = subprocess.Popen(
        [sys.executable, *command],
        cwd=HERE,
        env=environment(url) | variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=dying_with_us(signal.SIGTERM),  # noqa: PLW1509 - no thread of ours holds a lock here
    )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def environment(url: str) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PUSHQ_", "FOREMAN_"))}
    return clean | {"PUSHQ_DATABASE_URL": url}


def say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
