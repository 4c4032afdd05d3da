"""The two forms of a body."""

from __future__ import annotations

import json
from typing import Any

from pushq.webhooks.body import body_of

AT = "2026-11-29T12:00:00+00:00"
DATA = {"id": "0199", "task": "render", "status": "succeeded", "attempt": 1, "result": {"ü": [1, 2.5, None]}}


def body(shape: str, kind: str, data: dict[str, Any]) -> Any:
    return json.loads(body_of(shape, kind, AT, data))


def test_the_standard_form_is_that_of_standard_webhooks() -> None:
    assert body("standard", "job.succeeded", DATA) == {"type": "job.succeeded", "timestamp": AT, "data": DATA}


def test_the_flat_form_begins_with_id_and_state() -> None:
    flat = body("flat", "job.succeeded", DATA)

    assert flat == {"id": "0199", "state": "succeeded", "task": "render", "attempt": 1, "result": DATA["result"]}
    assert list(flat)[:2] == ["id", "state"]


def test_the_state_of_a_phase_is_the_phase() -> None:
    data = {"id": "0199", "status": "running", "phase": "loading"}

    assert body("flat", "job.phase", data) == {"id": "0199", "state": "loading", "phase": "loading"}
    assert body("flat", "job.succeeded", data | {"status": "succeeded"})["state"] == "succeeded"


def test_a_number_beyond_a_double_becomes_null_since_json_s_readers_know_no_infinity() -> None:
    assert body("standard", "job.succeeded", {"result": [float("inf"), {"a": 1.5}]})["data"] == {
        "result": [None, {"a": 1.5}]
    }


def test_the_body_is_compact_and_in_utf_8() -> None:
    assert body_of("flat", "job.queued", AT, {"id": "é", "status": "queued"}) == '{"id":"é","state":"queued"}'.encode()
