"""/metrics: for whom, and what clients that mean no good can do."""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from pathlib import Path

from tests.support.jobs import Connection, finished, insert
from tests.support.supervisors import supervising


def test_it_listens_on_loopback_alone_unless_it_is_told_otherwise(database_url: str) -> None:
    with supervising(database_url) as supervisor:
        port = f"{supervisor.port:04X}"
        listening = [
            line.split()[1]
            for table in ("tcp", "tcp6")
            for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
            if line.split()[3] == "0A" and line.split()[1].endswith(f":{port}")
        ]
    assert listening == [f"0100007F:{port}"]


def test_beyond_this_machine_nobody_gets_metrics_without_a_token(database_url: str) -> None:
    with supervising(database_url, HTTP_HOST="0.0.0.0") as supervisor:
        status, said = supervisor.get("/metrics")
        assert (status, "PUSHQ_HTTP_TOKEN" in said) == (403, True)
        assert supervisor.get("/healthz")[0] == supervisor.get("/readyz")[0] == 200
    with supervising(database_url, HTTP_HOST="0.0.0.0", HTTP_TOKEN="secret") as supervisor:
        assert supervisor.get("/metrics")[0] == 401
        assert supervisor.get("/metrics", Authorization="Bearer secret")[0] == 200


async def test_clients_that_dawdle_hold_up_neither_a_scrape_nor_a_job(
    database_url: str, connection: Connection
) -> None:
    with supervising(database_url) as supervisor, ExitStack() as dawdling:
        for _ in range(200):
            client = dawdling.enter_context(socket.create_connection(("127.0.0.1", supervisor.port)))
            client.sendall(b"G")
        began = time.monotonic()
        assert supervisor.get("/metrics")[0] == 200
        assert time.monotonic() - began < 5
        (row,) = await finished(connection, *await insert(connection, "echo"))
        assert row["status"] == "succeeded"


def test_what_is_no_scrape_is_refused_and_harms_nobody(database_url: str) -> None:
    with supervising(database_url) as supervisor:
        for said in (
            b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n",
            b"GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 1_000_000 + b"\r\n\r\n",
            b"\x00\xff\x16\x03\x01 nonsense\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", supervisor.port), timeout=5) as client:
                try:
                    client.sendall(said)
                    answer = client.recv(1000)
                except ConnectionError:
                    answer = b""
            assert not answer.startswith(b"HTTP/1.1 200")
        assert supervisor.get("/metrics")[0] == 200
