"""Sends one request over one connection, and reads what the receiver answers.

The host's name is looked up once, every address is checked, and the connection goes to a checked address. So a name
that leads elsewhere at a second look-up deceives nobody. Redirects are answers like others. No variable of the
environment names a proxy. The answer is bounded, and one deadline covers everything from the look-up to the end.

Errors name the host, and never show what the receiver sent: a tenant reads the errors of its deliveries, and must learn
nothing of services in an allowed network.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from functools import cache, partial

import anyio
import h11
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream
from anyio.to_thread import run_sync

from pushq.errors import AddressRefused, NoAnswer
from pushq.webhooks.addresses import Network, refusal
from pushq.webhooks.target import Target

DEADLINE = 15.0
"""Seconds for a delivery, from the look-up of the name to the end of the answer."""
CONNECTED_AFTER = 5.0
"""Seconds for one of a host's addresses to take the connection, before the next address is tried."""
MOST_ADDRESSES = 4
"""How many addresses of a host are tried."""
LONGEST_ANSWER = 64 * 1024
"""Bytes of an answer, of which no more is read."""
BODY_AFTER = 2.0
"""Seconds for the body to end after its status has come. The status alone counts, so a longer body is cut."""

Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""From a host and a port to addresses."""
Headers = Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """address: where the connection went. cut: why the rest of the answer was not read, or None."""

    status: int
    address: str
    retry_after: str | None = None
    cut: str | None = None


class Resolver:
    """Looks up names in threads of its own: a name server that hangs must not take the threads of other names."""

    def __init__(self, most: int) -> None:
        self._threads = anyio.CapacityLimiter(most)

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        try:
            found = await run_sync(look_up, abandon_on_cancel=True, limiter=self._threads)
        except OSError as error:
            raise NoAnswer(f"{host} leads to no address: {_reason(error)}.") from None
        return tuple(dict.fromkeys(str(address[0]) for *_, address in found))


@dataclass(frozen=True, slots=True)
class Poster:
    """resolve: looks up a host. allowed: networks that may be reached though they are not public."""

    resolve: Resolve
    allowed: Sequence[Network] = ()
    tls: ssl.SSLContext | None = None
    deadline: float = DEADLINE

    async def post(self, target: Target, headers: Headers, body: bytes) -> Answer:
        """Sends a POST. Raises AddressRefused before anything is sent, else NoAnswer."""
        try:
            with anyio.fail_after(self.deadline):
                return await self._post(target, headers, body)
        except TimeoutError:
            raise NoAnswer(f"{target.host} did not answer within {self.deadline:g} s.") from None

    async def _post(self, target: Target, headers: Headers, body: bytes) -> Answer:
        addresses = await self.checked(target)
        async with AsyncExitStack() as opened:
            stream, address = await _connected(target, addresses)
            opened.push_async_callback(_close, stream)
            if target.is_encrypted:
                stream = await self._encrypted(target, stream)
            return await _exchange(stream, target, address, headers, body)

    async def checked(self, target: Target) -> Sequence[str]:
        """The host's addresses. Raises AddressRefused if no webhook may go to one of them."""
        addresses = await self.resolve(target.host, target.port)
        for address in addresses:
            if refused := refusal(address, self.allowed):
                raise AddressRefused(
                    f"{target.host} leads to an address that is refused ({refused}); an operator may allow the network "
                    "by PUSHQ_WEBHOOK_ALLOW."
                )
        if not addresses:
            raise NoAnswer(f"{target.host} leads to no address.")
        return addresses

    async def _encrypted(self, target: Target, stream: ByteStream) -> ByteStream:
        try:
            return await TLSStream.wrap(
                stream,
                hostname=target.host.rstrip("."),
                ssl_context=self.tls or trusted(),
                standard_compatible=False,  # a receiver may close without a goodbye
            )
        except (ssl.SSLError, ssl.CertificateError, anyio.BrokenResourceError, anyio.EndOfStream, OSError) as error:
            raise NoAnswer(f"TLS with {target.host} failed: {_reason(error)}.") from None


@cache  # to read the authorities takes longer than a delivery
def trusted() -> ssl.SSLContext:
    """Trusts the authorities of the system, or those of SSL_CERT_FILE and SSL_CERT_DIR."""
    return ssl.create_default_context()


async def _connected(target: Target, addresses: Sequence[str]) -> tuple[ByteStream, str]:
    """A connection to the first address that takes one."""
    reasons: dict[str, None] = {}
    for address in addresses[:MOST_ADDRESSES]:
        try:
            with anyio.fail_after(CONNECTED_AFTER):
                return await anyio.connect_tcp(address, target.port), address
        except TimeoutError:
            reasons[f"no connection within {CONNECTED_AFTER:g} s"] = None
        except OSError as error:
            reasons[_reason(error)] = None
    raise NoAnswer(f"{target.host} takes no connection on port {target.port}: {', '.join(reasons)}.")


async def _exchange(stream: ByteStream, target: Target, address: str, headers: Headers, body: bytes) -> Answer:
    request = h11.Request(
        method="POST",
        target=target.path,
        headers=[
            ("Host", target.authority),
            ("Content-Length", str(len(body))),
            ("Connection", "close"),
            *headers,
        ],
    )
    reader = _Reader(stream, target.host)
    await reader.send(request, h11.Data(data=body), h11.EndOfMessage())
    response = await reader.response()
    cut = await reader.body()
    return Answer(response.status_code, address, _header(response, b"retry-after"), cut)


class _Reader:
    """Speaks HTTP/1.1 over one connection, and counts what the receiver sends."""

    def __init__(self, stream: ByteStream, host: str) -> None:
        self._stream = stream
        self._host = host
        self._state = h11.Connection(h11.CLIENT)
        self._received = 0
        self._has_ended = False

    async def send(self, *events: h11.Event) -> None:
        sent = b"".join(self._state.send(event) or b"" for event in events)
        with suppress(anyio.BrokenResourceError):  # the receiver reads no further, but may have answered
            await self._stream.send(sent)

    async def response(self) -> h11.Response:
        while not isinstance(event := await self._next(), h11.Response):
            if self._received > LONGEST_ANSWER:
                raise NoAnswer(f"{self._host} sent {LONGEST_ANSWER // 1024} KiB without a status.")
            if isinstance(event, h11.ConnectionClosed):
                raise NoAnswer(f"{self._host} closed the connection without an answer.")
        return event

    async def body(self) -> str | None:
        """Reads to the end of the body, within bounds. Returns why the rest was cut, if so."""
        with anyio.move_on_after(BODY_AFTER):
            with suppress(NoAnswer):  # the status has come, and counts
                while not isinstance(await self._next(), h11.EndOfMessage | h11.ConnectionClosed):
                    if self._received > LONGEST_ANSWER:
                        return f"the answer was longer than {LONGEST_ANSWER // 1024} KiB"
            return None
        return f"the answer took longer than {BODY_AFTER:g} s after its status"

    async def _next(self) -> h11.Event:
        while True:
            try:
                event = self._state.next_event()
                if event is h11.NEED_DATA:
                    self._state.receive_data(await self._bytes())
                    continue
            except h11.RemoteProtocolError:
                how = "closed the connection without an answer" if self._has_ended else "does not answer in HTTP"
                raise NoAnswer(f"{self._host} {how}.") from None
            if event is h11.PAUSED:
                return h11.ConnectionClosed()
            assert isinstance(event, h11.Event)
            return event

    async def _bytes(self) -> bytes:
        try:
            received = await self._stream.receive(16 * 1024)
        except anyio.EndOfStream:
            self._has_ended = True
            return b""
        except (anyio.BrokenResourceError, OSError) as error:
            raise NoAnswer(f"{self._host} broke the connection: {_reason(error)}.") from None
        self._received += len(received)
        return received


async def _close(stream: ByteStream) -> None:
    """Closes at once: neither a receiver that reads nothing, nor an end of TLS, is waited for."""
    await anyio.aclose_forcefully(stream)


def _header(response: h11.Response, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in response.headers if key == name), None)


def _reason(error: BaseException) -> str:
    """The reason in the words of the operating system or of TLS. Texts of libraries may show the address."""
    while not getattr(error, "strerror", None) and (cause := error.__cause__):
        error = cause
    match error:
        case ssl.SSLCertVerificationError():
            return error.verify_message.rstrip(".")
        case ssl.SSLError():
            return (error.reason or "no handshake").lower().replace("_", " ")
        case socket.gaierror() if error.strerror:
            return error.strerror
        case OSError() if error.errno:
            return os.strerror(error.errno)
        case anyio.EndOfStream():
            return "the connection ended"
        case _:
            return type(error).__name__
