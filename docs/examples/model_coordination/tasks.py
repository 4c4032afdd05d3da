"""The handler of model_coordination: `pushq supervise tasks:tasks --queue models`."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import timedelta
from hashlib import md5
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

from pushq import Tasks, current_job

tasks = Tasks()


class ModelError(Exception):
    """The models' server has answered that the job cannot be done."""


def soon(failures: int) -> timedelta:
    return timedelta(seconds=failures)


@tasks.register("coord.run", queue="models", max_attempts=3, backoff=soon, fail_on=ModelError)
async def run(models: list[str], seconds: float = 0, **_: object) -> Any:
    """Has the models' server run the job, and waits for the answer.

    A lost connection is tried again. Other keys of the payload are left alone.
    """
    return await post("/run", {"job_id": job_id(), "models": models, "seconds": seconds})


def job_id() -> str:
    """The job's id as the view `jobs` has it: a text that is no uuid is kept as the correlation id."""
    job = current_job()
    text = job.correlation_id or ""
    return text if UUID(md5(text.encode(), usedforsecurity=False).hexdigest()) == job.id else str(job.id)


async def post(path: str, body: object) -> Any:
    """What COORD_MODEL_URL answers to a POST, by HTTP/1.0, so that the answer ends with the connection.

    Whoever cancels the handler closes the connection at once.
    """
    server = urlsplit(os.environ["COORD_MODEL_URL"])
    is_secure = server.scheme == "https"
    reader, writer = await asyncio.open_connection(
        server.hostname, server.port or (443 if is_secure else 80), ssl=is_secure or None
    )
    try:
        content = json.dumps(body).encode()
        head = (
            f"POST {server.path.rstrip('/')}{path} HTTP/1.0\r\nHost: {server.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
        )
        writer.write(head.encode() + content)
        answer = await reader.read()
    finally:
        writer.close()
    head_of_answer, _, text = answer.partition(b"\r\n\r\n")
    status = head_of_answer.split(b" ")[1:2]
    if not status:
        raise ConnectionError("the models' server has closed the connection without an answer")
    if not status[0].startswith(b"2"):
        raise ModelError(f"the models' server answered {status[0].decode()}: {text[:500].decode(errors='replace')}")
    return json.loads(text) if text else None
