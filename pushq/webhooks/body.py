"""The body of a delivery: Standard Webhooks' form, or a flat one for receivers of other systems."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

SHAPES = ("standard", "flat")


def body_of(shape: str, kind: str, timestamp: str, data: Mapping[str, Any]) -> bytes:
    """The body as JSON. shape: one of SHAPES. kind: the type of the event, `job.succeeded` for example.

    A flat body has the job's `id`, its `state`, which is the phase of a job that tells a phase and else the status, and
    the other keys of the data.
    """
    if shape == "flat":
        state = data.get("phase") if kind == "job.phase" else data.get("status")
        return _json({"id": data.get("id"), "state": state} | {key: data[key] for key in data if key not in _TAKEN})
    return _json({"type": kind, "timestamp": timestamp, "data": data})


_TAKEN = ("id", "state", "status")


def _json(value: Any) -> bytes:
    try:
        return _written(value)
    except ValueError:  # a number beyond a double, which PostgreSQL holds and JSON's readers read as infinity
        return _written(_finite(value))


def _written(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _finite(value: Any) -> Any:
    match value:
        case dict():
            return {key: _finite(inner) for key, inner in value.items()}
        case list():
            return [_finite(inner) for inner in value]
        case float() if not isfinite(value):
            return None
        case _:
            return value
