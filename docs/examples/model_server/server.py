"""The HTTP server of model_server: `python server.py`.

A chat is a job. The server inserts the job, waits for its end, and answers as if the server had done the work itself.
The job goes on without the server: a caller that goes away, patience that is over and a server that stops leave the job
to the worker.

The server keeps nothing. What it tells, it reads from the views, so any number of servers may stand side by side.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from math import ceil
from typing import Any, TypeAlias
from urllib.parse import unquote
from uuid import UUID, uuid4

import anyio
import asyncpg
import uvicorn
from foreman import ModelLost, SettingError, Settings, post  # type: ignore[import-not-found]
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from pushq import Queue
from pushq.errors import DatabaseTrouble, JobUnknown, WaitTimeout

LARGEST_JOB = 1024 * 1024
"""Bytes of a job's body: what a row of pushq.jobs takes."""
LARGEST_EMBEDDING = 16 * 1024 * 1024
"""Bytes of a body that goes straight through."""
LARGEST_READ = 64 * 1024 * 1024
"""Bytes of a body that is too large, and is read so that its sender hears the answer."""
SENT_WITHIN = 30.0
"""Seconds for a request's head, and as many for its body."""
GRACE = 5.0
"""Seconds for which callers may wait on after SIGTERM."""
PAGE = 100
"""Jobs of a list that are fetched at a time."""
STATES = ("queued", "loading", "working", "done", "failed")

INSERT = """
INSERT INTO public.jobs (id, model, payload, state, attempt, max_attempts, state_webhook_url)
VALUES ($1, $2, $3, 'queued', 0, $4, $5)
"""
GET = "SELECT * FROM public.jobs WHERE id = $1"
LIST = "SELECT id FROM public.jobs ORDER BY created_at DESC, id"
LIST_STATE = "SELECT id FROM public.jobs WHERE state = $1 ORDER BY created_at DESC, id"
LISTED = "SELECT * FROM public.jobs WHERE id = ANY($1) ORDER BY array_position($1, id)"
ARTIFACTS = "SELECT name, content_type, size FROM public.artifacts WHERE job_id = $1 ORDER BY name"
ARTIFACT = "SELECT content_type, data FROM public.artifacts WHERE job_id = $1 AND name = $2"
EXPIRE = """
INSERT INTO pushq.jobs (task, queue, unique_key, payload) VALUES ('foreman.expire', 'foreman', $1, $2)
ON CONFLICT DO NOTHING
"""
CANCEL = "SELECT pushq.cancel(public.foreman_uuid(id)) FROM public.jobs WHERE id = $1"

Handler: TypeAlias = Callable[..., Awaitable[Response]]


class Refused(Exception):
    """An answer that is none of the good ones."""

    def __init__(self, status: int, error: str, job_id: str | None = None, **headers: str) -> None:
        super().__init__(error)
        self.status = status
        self.job_id = job_id
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


class Foreman:
    """The application. going: set when the server is to stop."""

    def __init__(self, settings: Settings, database: Any) -> None:
        self._settings = settings
        self._database = database
        self._queue = Queue()
        self.going = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except Refused as refused:
            body = {"error": str(refused)} | ({"job_id": refused.job_id} if refused.job_id else {})
            response = as_json(body, refused.status, refused.headers)
        except ClientDisconnect:
            return
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        handlers, arguments = self._route(request)
        if handler := handlers.get(request.method):
            return await handler(request, *arguments)
        allowed = ", ".join(handlers)
        raise Refused(405, f"{request.method[:20]} is not for this path; give {allowed}.", Allow=allowed)

    def _route(self, request: Request) -> tuple[dict[str, Handler], list[str]]:
        """By the path as sent: an id may have a slash, as %2F."""
        match parts_of(request):
            case ["api", "chat"]:
                return {"POST": self._chat}, []
            case ["api", "embeddings"]:
                return {"POST": self._embed}, []
            case ["jobs"]:
                return {"GET": self._list, "POST": self._submit}, []
            case ["jobs", job_id]:
                return {"GET": self._get, "DELETE": self._cancel}, [job_id]
            case ["jobs", job_id, "artifacts", name]:
                return {"GET": self._artifact}, [job_id, name]
        raise Refused(404, f"There is nothing at {request.url.path[:200]}.")

    # Jobs

    async def _chat(self, request: Request) -> Response:
        job_id = await self._insert(await json_of(request))
        if refused := await self._wait(request, job_id):
            raise refused
        row = await self._ask("fetchrow", ARTIFACT, job_id, "response", job_id=job_id)
        if row is None:
            raise Refused(502, f"Job {job_id} has ended, and its answer is gone.", job_id)
        return Response(row["data"], media_type=row["content_type"])

    async def _submit(self, request: Request) -> Response:
        job_id = await self._insert(await json_of(request))
        return as_json({"id": job_id}, 202, {"Location": f"/jobs/{job_id}"})

    async def _insert(self, body: dict[str, Any]) -> str:
        job_id = str(uuid4())
        max_attempts, url = body.pop("max_attempts", None), body.pop("state_webhook_url", None)
        model = body.get("model")
        if not isinstance(model, str):
            raise Refused(400, 'The body lacks a model; give {"model": "llama3", "messages": […]}.')
        if max_attempts is not None and (isinstance(max_attempts, bool) or not isinstance(max_attempts, int)):
            raise Refused(400, f"max_attempts is a whole number, not {json.dumps(max_attempts)[:100]}.")
        if url is not None and not isinstance(url, str):
            raise Refused(400, f"state_webhook_url is a URL, not {json.dumps(url)[:100]}.")
        job = (job_id, model, json.dumps(body), max_attempts, url)
        try:
            await self._ask("execute", INSERT, *job, job_id=job_id, more="Whether the job was inserted is unknown.")
        except asyncpg.UniqueViolationError:
            pass  # inserted before the connection was lost: nobody else has the id
        except (asyncpg.CheckViolationError, asyncpg.DataError) as error:
            is_large = getattr(error, "constraint_name", None) == "jobs_payload_is_at_most_1_mib"
            raise Refused(413 if is_large else 400, f"The job was refused: {error.args[0]}.") from None
        return job_id

    async def _wait(self, request: Request, job_id: str) -> Refused | None:
        """Waits for the job's end. Returns why there is no answer, if there is none."""
        ends: list[Refused | None] = []
        async with anyio.create_task_group() as group:

            async def end_with(why: Awaitable[Refused | None]) -> None:
                ends.append(await why)
                group.cancel_scope.cancel()

            group.start_soon(end_with, self._end_of(job_id))
            group.start_soon(end_with, left(request, job_id))
            group.start_soon(end_with, self._stopped(job_id))
        return ends[0]

    async def _end_of(self, job_id: str) -> Refused | None:
        until = time.monotonic() + self._settings.patience
        while True:
            try:
                ended = await self._queue.wait(UUID(job_id), timeout=max(until - time.monotonic(), 0.001))
            except WaitTimeout as error:
                return Refused(504, f"{error} The job goes on: ask GET /jobs/{job_id}.", job_id)
            except JobUnknown:
                return Refused(502, f"Job {job_id} was deleted.", job_id)
            except DatabaseTrouble as error:
                if time.monotonic() > until - 1:
                    return away(error, job_id, "The job goes on.")
                await anyio.sleep(0.5)
            else:
                if ended.status == "succeeded":
                    return None
                return Refused(502, ended.error or ended.status, job_id)

    async def _stopped(self, job_id: str) -> Refused:
        await self.going.wait()
        await anyio.sleep(GRACE)
        return Refused(503, f"The server stops. The job goes on: ask GET /jobs/{job_id}.", job_id, Retry_After="5")

    async def _list(self, request: Request) -> Response:
        state = request.query_params.get("state")
        if state is not None and state not in STATES:
            raise Refused(400, f"state is one of {', '.join(STATES)}, not {state[:100]!r}.")
        rows = await (self._ask("fetch", LIST_STATE, state) if state else self._ask("fetch", LIST))
        return StreamingResponse(self._listed([row["id"] for row in rows]), media_type="application/json")

    async def _listed(self, ids: list[str]) -> AsyncIterator[str]:
        """The jobs, however many: a page of them is in memory, and no connection waits for a slow reader."""
        separator = ""
        yield "["
        for first in range(0, len(ids), PAGE):
            for row in await self._ask("fetch", LISTED, ids[first : first + PAGE]):
                yield separator + json.dumps(shown(row))
                separator = ",\n"
        yield "]"

    async def _get(self, _: Request, job_id: str) -> Response:
        row = await self._ask("fetchrow", GET, job_id)
        if row is None:
            raise unknown(job_id)
        artifacts = await self._ask("fetch", ARTIFACTS, job_id)
        return as_json(shown(row) | {"artifacts": [dict(one) for one in artifacts]})

    async def _artifact(self, _: Request, job_id: str, name: str) -> Response:
        row = await self._ask("fetchrow", ARTIFACT, job_id, name)
        if row is None:
            raise Refused(404, f"Job {job_id[:200]} has no artifact {name[:200]!r}.")
        # What a model has written must not run in a browser.
        return Response(row["data"], headers={"Content-Type": row["content_type"], "X-Content-Type-Options": "nosniff"})

    async def _cancel(self, _: Request, job_id: str) -> Response:
        done = await self._ask("fetchval", CANCEL, job_id)
        if done is None:
            raise unknown(job_id)
        if done not in ("cancelled", "cancelling"):
            raise Refused(409, f"Job {job_id} is {done}.", job_id)
        if done == "cancelling":  # the row ends when the handler has stopped
            return as_json({"id": job_id, "state": "working"}, 202)
        return as_json({"id": job_id, "state": "failed"})

    # The rest

    async def expire_now_and_then(self) -> None:
        """Inserts `foreman.expire`, one for all servers that share a database and a time."""
        if (seconds := self._settings.job_ttl) is None:
            return
        interval = min(max(seconds / 10, 1.0), 60.0)
        while True:
            with suppress(Refused):  # the database is away: once more at the next time
                key = f"foreman.expire {seconds:g} {ceil(time.time() / interval)}"
                await self._ask("execute", EXPIRE, key, json.dumps({"older_than": seconds}))
            await anyio.sleep(interval)

    async def _embed(self, request: Request) -> Response:
        """Straight through, beside the worker."""
        content = await body_of(request, LARGEST_EMBEDDING)
        try:
            async with asyncio.timeout(self._settings.patience):
                answer = await post(self._settings.ollama_url, "/api/embeddings", content)
        except ModelLost as error:
            raise Refused(502, f"{error}.") from None
        except TimeoutError:
            raise Refused(504, f"The model server did not answer within {self._settings.patience:g} s.") from None
        return Response(answer.body, answer.status, media_type=answer.content_type)

    async def _ask(self, way: str, statement: str, *arguments: Any, job_id: str | None = None, more: str = "") -> Any:
        """What the database answers. way: a method of asyncpg's connections.

        A statement whose connection was lost is sent once more, so it must be safe to repeat. A database that is away,
        or refuses, becomes an answer with a remedy.
        """
        for is_last in (False, True):
            try:
                async with self._database.acquire(timeout=10) as connection:
                    return await getattr(connection, way)(statement, *arguments)
            except (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError):
                raise
            except AWAY as error:
                if is_last or not isinstance(error, LOST):
                    raise away(error, job_id, more) from None
                await self._database.expire_connections()  # if one was lost, the others are no better
        raise AssertionError


AWAY = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)
LOST = (
    ConnectionError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # the server has closed a connection of the pool, and asyncpg has not seen so yet
)


def away(error: BaseException, job_id: str | None = None, more: str = "") -> Refused:
    said = str(error.args[0] if error.args else "").rstrip(".") or type(error).__name__
    remedy = "Run `pushq migrate` and schema.sql." if isinstance(error, UNPREPARED) else "Try again in some seconds."
    told = " ".join(filter(None, [f"The database cannot be asked: {said}.", more, remedy]))
    return Refused(503, told, job_id, Retry_After="2")


UNPREPARED = (asyncpg.UndefinedTableError, asyncpg.UndefinedFunctionError, asyncpg.InvalidSchemaNameError)


def unknown(job_id: str) -> Refused:
    return Refused(404, f"There is no job {job_id[:200]!r}.")


async def left(request: Request, job_id: str) -> Refused:
    """Returns when the caller has gone. Nobody hears the answer."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    return Refused(499, "The caller has gone.", job_id)


def parts_of(request: Request) -> list[str]:
    path = request.scope.get("raw_path") or request.scope["path"].encode()
    try:
        parts = [unquote(part, errors="strict") for part in path.decode("ascii").split("/")[1:]]
    except UnicodeDecodeError:
        return []
    return [] if any("\0" in part for part in parts) else parts


async def json_of(request: Request) -> dict[str, Any]:
    try:
        body = json.loads(await body_of(request, LARGEST_JOB), parse_constant=float.fromhex)
        json.dumps(body, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise Refused(400, f"The body is no JSON: {error}.") from None
    if not isinstance(body, dict):
        raise Refused(400, 'The body is no object; give {"model": "llama3", "messages": […]}.')
    return body


async def body_of(request: Request, largest: int) -> bytes:
    """Raises Refused for a body that is too large or too slow. What is too large is read to its end, within bounds."""
    body, size = bytearray(), 0
    too_large = Refused(413, f"The body is over {largest:,} bytes.")
    told = request.headers.get("content-length", "0")
    if int(told) > LARGEST_READ:  # h11 has seen that it is a number
        raise too_large
    try:
        async with asyncio.timeout(SENT_WITHIN):
            async for piece in request.stream():
                size += len(piece)
                if size > LARGEST_READ:
                    raise too_large
                if size <= largest:
                    body += piece
    except TimeoutError:
        raise Refused(408, f"The body has not come within {SENT_WITHIN:g} s.") from None
    if size > largest:
        raise too_large
    return bytes(body)


def shown(row: Any) -> dict[str, Any]:
    """A row of the view, for JSON."""
    return {name: in_json(name, value) for name, value in row.items()}


def in_json(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return json.loads(value) if name in ("payload", "result") and value else value


def as_json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(json.dumps(value), status, headers, "application/json")


# Serving --------------------------------------------------------------------------------------------------------------


class Connection11(H11Protocol):
    """A client's connection. A client that sends no whole head in time is cut off."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        super().connection_made(transport)
        self.cut_off = self.loop.call_later(SENT_WITHIN, transport.abort)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        is_asking = self.cycle is not None and not self.cycle.response_complete
        if is_asking:
            self.cut_off.cancel()
        elif self.cut_off.cancelled():
            self.cut_off = self.loop.call_later(SENT_WITHIN, self.transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self.cut_off.cancel()
        super().connection_lost(exc)


class Server(uvicorn.Server):
    """A server without uvicorn's handlers of signals, which raise the signal again at the end."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def main(settings: Settings) -> None:
    """Serves until SIGTERM or SIGINT, and drains."""
    url = os.environ.get("PUSHQ_DATABASE_URL") or os.environ.get("DATABASE_URL") or None
    database = await asyncpg.create_pool(url, min_size=0, max_size=10, timeout=10, command_timeout=60)
    foreman = Foreman(settings, database)
    server = server_of(foreman)

    def stop() -> None:
        foreman.going.set()
        server.should_exit = True

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    with listening_at(settings.host, settings.port) as listening:
        async with anyio.create_task_group() as group:
            group.start_soon(foreman.expire_now_and_then)
            await server.serve(sockets=[listening])
            group.cancel_scope.cancel()
    database.terminate()  # no request is left, and a database that does not answer is not waited for


def server_of(app: Foreman) -> Server:
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    return Server(
        uvicorn.Config(
            app,
            http=Connection11,
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_graceful_shutdown=round(GRACE) + 5,
        )
    )


def listening_at(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=1024)
    except OSError as error:
        sys.exit(f"FOREMAN_LISTEN: {host}:{port} cannot be listened on: {error.strerror}.")
    host, port, *_ = listening.getsockname()
    print(f"listening on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
    return listening


if __name__ == "__main__":
    try:
        asyncio.run(main(Settings.load()))
    except SettingError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
