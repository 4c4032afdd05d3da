"""The handlers of model_server: `pushq supervise tasks:tasks --concurrency 1`."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any

from foreman import ModelLost, ModelRefused, Settings, asked  # type: ignore[import-not-found]

from pushq import Retry, Tasks, current_job
from pushq.errors import DatabaseAway, DatabaseTrouble

settings = Settings.load()
tasks = Tasks()

LARGEST_RESULT = 1024 * 1024
"""Bytes of JSON in the column `result`. The artifact `response` has every answer whole."""
unloaded: set[str] = set()
"""Models that a worker has come to, and that are not loaded yet."""


def at_once(_: int) -> timedelta:
    return timedelta()


@tasks.register(
    "foreman.chat",
    queue="foreman",
    max_attempts=settings.max_attempts,
    backoff=at_once,
    retry_on=(ModelLost, DatabaseTrouble),
    fail_on=ModelRefused,
)
async def chat(model: str, payload: Any = None, state_webhook_url: str | None = None, **others: object) -> Any:  # noqa: ARG001
    """Loads the model if the worker comes from another, has the model work, and leaves the answer as `response`.

    payload: the request, as the view has it; None: its keys stand beside `model`.
    """
    job = current_job()
    request = others if payload is None else payload
    if not isinstance(request, dict):
        raise TypeError(f"payload is of type {type(payload).__name__}: a request to a model is an object")
    if job.affinity_changed:
        unloaded.add(model)
    if model in unloaded:
        job.progress(phase="loading")
        await asked(settings.ollama_url, "/api/generate", {"model": model})
        unloaded.discard(model)
    job.progress(phase="working")
    answer = await asked(settings.ollama_url, "/api/chat", request | {"model": model, "stream": False})
    try:
        async with job.artifact("response", "application/json") as file:
            await file.write(answer)
    except DatabaseAway as error:  # no fault of the job: counts as no failure
        raise Retry(after=timedelta(seconds=1)) from error
    return result_of(answer)


def result_of(answer: bytes) -> Any:
    """The answer for the column `result`. None for what the column does not take."""
    if len(answer) > LARGEST_RESULT or b"\\u0000" in answer:
        return None
    try:
        result = json.loads(answer)
        text = json.dumps(result, ensure_ascii=False, allow_nan=False)
        return result if len(text.encode()) <= LARGEST_RESULT and not is_deep(result) else None
    except (ValueError, RecursionError):
        return None


def is_deep(value: Any, left: int = 100) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left == 0 or any(is_deep(one, left - 1) for one in inner)


@tasks.register("foreman.expire", queue="foreman")
async def expire(older_than: float | None = None) -> dict[str, float] | None:
    """Has jobs deleted, with their artifacts, that ended longer ago than `older_than`, else FOREMAN_JOB_TTL, seconds.

    Handlers do not find PUSHQ_DATABASE_URL. So the result says how long, and schema.sql has the database delete in the
    transaction that writes the result.
    """
    seconds = older_than or settings.job_ttl
    return {"older_than": seconds} if seconds else None
