"""The statements of the apps that move in are there to be run."""

from __future__ import annotations

import pytest

from tests.examples.files import statements


@pytest.mark.parametrize(
    ("example", "some"),
    [
        ("ingest", {"OLD", "SUBMIT", "WATCH", "PICK", "START", "COMMIT", "FAIL", "RESUME", "RECOVER", "METRICS"}),
        ("graph", {"OLD", "INSERT", "REPLACE", "GET", "LIST", "LIST_BY", "BY_STATUS", "EVENT", "EVENTS"}),
        ("saas", {"OLD", "CLAIM", "ADD", "DONE", "AGAIN", "FAILED"}),
        ("model_coordination", {"VERIFY", "SHOW"}),
        (
            "model_server",
            {
                "OLD",
                "CREATE",
                "GET",
                "LIST",
                "LIST_BY_STATE",
                "ATTACH",
                "FETCH",
                "FETCH_ALL",
                "EXPIRE_ARTIFACTS",
                "EXPIRE_JOBS",
            },
        ),
    ],
)
def test_each_statement_is_found_by_its_name(example: str, some: set[str]) -> None:
    found = statements(example)
    assert some <= found.keys()
    assert all(text.strip().endswith(";") for text in found.values())
