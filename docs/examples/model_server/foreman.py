"""What server.py and tasks.py share: the settings, and the model server's side of HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

LARGEST_ANSWER = 64 * 1024 * 1024
"""Bytes of a model's answer."""
CONNECTED_WITHIN = 10.0
"""Seconds."""


class SettingError(ValueError):
    """A variable of the environment cannot be used."""


@dataclass(frozen=True)
class Settings:
    """FOREMAN_… of the environment. An empty variable counts as unset. Times are seconds."""

    host: str
    port: int
    ollama_url: str
    max_attempts: int
    job_ttl: float | None
    patience: float

    @classmethod
    def load(cls, environment: Mapping[str, str] = os.environ) -> Settings:
        """Raises SettingError."""
        given = {name.removeprefix("FOREMAN_"): text for name, text in environment.items() if text}
        host, _, port = given.get("LISTEN", "127.0.0.1:8000").rpartition(":")
        ollama_url = given.get("OLLAMA_URL", "http://127.0.0.1:11434")
        if not (host and port.isascii() and port.isdigit() and int(port) < 65536):
            raise SettingError(f"FOREMAN_LISTEN={given['LISTEN']!r} is no host and port; give one like 127.0.0.1:8000.")
        if urlsplit(ollama_url).scheme not in ("http", "https") or not urlsplit(ollama_url).hostname:
            raise SettingError(f"FOREMAN_OLLAMA_URL={ollama_url!r} is no URL of http or https.")
        attempts = _number(given, "MAX_ATTEMPTS", 3)
        if attempts != int(attempts) or not 1 <= attempts <= 10_000:
            raise SettingError(f"FOREMAN_MAX_ATTEMPTS={given['MAX_ATTEMPTS']!r} is no whole number from 1 to 10000.")
        ttl = _number(given, "JOB_TTL", 0) or None
        return cls(host.strip("[]"), int(port), ollama_url, int(attempts), ttl, _number(given, "PATIENCE", 60))


def _number(given: Mapping[str, str], name: str, default: float) -> float:
    text = given.get(name, str(default))
    number = -1.0
    with suppress(ValueError):
        number = float(text)
    is_zero_allowed = name == "JOB_TTL"
    if not (0 < number <= 1e9 or (number == 0 and is_zero_allowed)):
        raise SettingError(f"FOREMAN_{name}={text!r} is no number over 0.")
    return number


class ModelLost(ConnectionError):
    """The connection to the model server was lost, or there was none."""


class ModelRefused(Exception):
    """The model server has answered that the work cannot be done."""


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    body: bytes


async def asked(url: str, path: str, request: object) -> bytes:
    """The body of the model server's answer to a POST. Raises ModelLost, and ModelRefused if the status is not 2xx."""
    answer = await post(url, path, json.dumps(request).encode())
    if not 200 <= answer.status < 300:
        said = answer.body[:500].decode(errors="replace")
        raise ModelRefused(f"the model server answered {answer.status} to {path}: {said}")
    return answer.body


async def post(url: str, path: str, content: bytes) -> Answer:
    """Whatever the model server answers. Whoever cancels the caller closes the connection at once. Raises ModelLost."""
    server = urlsplit(url)
    is_secure = server.scheme == "https"
    port = server.port or (443 if is_secure else 80)
    try:
        async with asyncio.timeout(CONNECTED_WITHIN):
            reader, writer = await asyncio.open_connection(server.hostname, port, ssl=is_secure or None)
    except OSError as error:
        reason = error.strerror or str(error) or f"no answer within {CONNECTED_WITHIN:g} s"
        raise ModelLost(f"the model server takes no connection: {reason}") from None
    try:
        _notice_a_dead_host(writer)
        request = h11.Request(
            method="POST",
            target=server.path.rstrip("/") + path,
            headers=[
                ("Host", server.netloc.rpartition("@")[2]),
                ("Content-Type", "application/json"),
                ("Content-Length", str(len(content))),
                ("Connection", "close"),
            ],
        )
        return await _exchange(reader, writer, request, content)
    except ModelLost:
        raise
    except OSError as error:
        raise ModelLost(f"the connection to the model server was lost: {error.strerror or error}") from None
    finally:
        writer.close()


async def _exchange(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: h11.Request, content: bytes
) -> Answer:
    state = h11.Connection(h11.CLIENT)
    for sent in (request, h11.Data(data=content), h11.EndOfMessage()):
        writer.write(state.send(sent) or b"")
    with suppress(ConnectionError):  # a server that reads no further may have answered
        await writer.drain()
    response: h11.Response | None = None
    body = bytearray()
    while not isinstance(event := await _next(state, reader), h11.EndOfMessage):
        match event:
            case h11.Response():
                response = event
            case h11.Data():
                body += event.data
        if len(body) > LARGEST_ANSWER:
            raise ModelRefused(f"the model server's answer is over {LARGEST_ANSWER // 1024 // 1024} MiB")
    assert response
    kinds = [value.decode("latin-1") for name, value in response.headers if name == b"content-type"]
    return Answer(response.status_code, kinds[0] if kinds else "application/json", bytes(body))


async def _next(state: h11.Connection, reader: asyncio.StreamReader) -> object:
    try:
        while (event := state.next_event()) is h11.NEED_DATA:
            state.receive_data(await reader.read(64 * 1024))
    except h11.RemoteProtocolError:
        how = "has closed the connection before its answer's end" if reader.at_eof() else "does not answer in HTTP"
        raise ModelLost(f"the model server {how}") from None
    return event


def _notice_a_dead_host(writer: asyncio.StreamWriter) -> None:
    """A model may work for an hour without a byte. A host that is gone is noticed within a minute."""
    its_socket = writer.get_extra_info("socket")
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
    ):
        its_socket.setsockopt(level, option, value)
