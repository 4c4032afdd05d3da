"""The port of /metrics, /healthz and /readyz, before the HTTP server is imported."""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Callable

import pytest

from pushq.exporter import port
from pushq.exporter.figures import ProcessFigures


async def test_a_system_that_has_no_thread_to_give_keeps_nobody_out(monkeypatch: pytest.MonkeyPatch) -> None:
    async def no_thread(_: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(port, "run_sync", no_thread)
    with port.bind("127.0.0.1", 0) as listening:
        place = f"http://127.0.0.1:{listening.getsockname()[1]}/healthz"
        serving = asyncio.create_task(
            port.serve_on_demand(
                listening, url=None, name="test", figures=ProcessFigures, not_ready=lambda: None, token=None
            )
        )
        with await asyncio.to_thread(urllib.request.urlopen, place, timeout=10) as answer:
            assert answer.read() == b"alive\n"
        serving.cancel()
