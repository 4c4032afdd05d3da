"""A request is sent to checked addresses alone, and whatever a receiver does, the delivery ends."""

from __future__ import annotations

import ssl
from collections.abc import Sequence
from ipaddress import ip_network
from pathlib import Path

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream

from pushq.errors import AddressRefused, NoAnswer, UrlRefused
from pushq.webhooks.http import Answer, Poster, Resolver
from pushq.webhooks.target import target_of
from tests.support.receivers import Authority, answers, hangs, receiving, sends

LOOPBACK = (ip_network("127.0.0.1/32"),)
BODY = b'{"type":"job.succeeded"}'

DISGUISES = (
    "127.0.0.1", "127.1", "127.0.1", "0", "0.0.0.0", "2130706433", "017700000001", "0177.0.0.1", "0x7f000001",
    "0x7f.0.0.1", "0x7f.1", "127.0.0.1.", "localhost", "localhost.", "LOCALHOST", "10.0.0.1", "0xa000001",
    "192.168.0.1", "172.16.0.1", "100.64.0.1", "169.254.169.254", "2852039166", "0xa9fea9fe", "0251.0376.0251.0376",
    "192.0.0.192", "168.63.129.16", "100.100.100.200", "255.255.255.255", "224.0.0.1", "[::1]", "[::]",
    "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[::ffff:169.254.169.254]",
    "[64:ff9b::127.0.0.1]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::1]", "[2001:0:7f00:1::]",
    "[fd00:ec2::254]", "[fe80::1]", "[fe80::1%25lo]", "[fec0::1]", "[ff02::1]",
)  # fmt: skip


def poster(
    *found: Sequence[str], allowed: bool = True, deadline: float = 15.0, tls: ssl.SSLContext | None = None
) -> Poster:
    """found: what each look-up finds in turn; without any, names are looked up in earnest."""
    looks = iter(found)

    async def resolve(_host: str, _port: int) -> Sequence[str]:
        return next(looks)

    return Poster(resolve if found else Resolver(4), LOOPBACK if allowed else (), tls, deadline)


async def post(poster: Poster, url: str) -> Answer:
    return await poster.post(target_of(url), [("webhook-id", "7"), ("Content-Type", "application/json")], BODY)


@pytest.mark.parametrize("host", DISGUISES)
async def test_no_disguise_of_a_special_address_gets_through(host: str) -> None:
    async with receiving(host="127.0.0.1") as receiver:
        with pytest.raises((AddressRefused, NoAnswer)) as refused:
            await post(poster(allowed=False), f"http://{host}:{receiver.port}/")

        assert receiver.connections == 0
        if isinstance(refused.value, NoAnswer):  # what the machine's own library does not read as an address
            assert "leads to no address" in str(refused.value)


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0x7f.1", "localhost", "[::ffff:127.0.0.1]"])
async def test_a_refusal_names_the_kind_of_address(host: str) -> None:
    with pytest.raises(AddressRefused, match=r"leads to an address that is refused \(loopback\).*PUSHQ_WEBHOOK_ALLOW"):
        await post(poster(allowed=False), f"http://{host}/")


async def test_one_private_address_among_public_ones_is_refused() -> None:
    with pytest.raises(AddressRefused, match=r"refused \(private\)"):
        await post(poster(["9.9.9.9", "10.0.0.1"]), "http://hooks.example/")


async def test_a_name_is_looked_up_once_and_the_connection_goes_to_the_checked_address() -> None:
    """A name server that rebinds answers with another address at each question."""
    async with receiving() as receiver:
        answer = await post(poster(["127.0.0.1"], ["10.0.0.1"]), f"http://hooks.example:{receiver.port}/hook?a=b")

    assert (answer.status, answer.address) == (200, "127.0.0.1")
    assert receiver.requests[0].line == "POST /hook?a=b HTTP/1.1"
    assert receiver.requests[0].headers["host"] == f"hooks.example:{receiver.port}"


async def test_the_next_delivery_is_checked_again() -> None:
    async with receiving() as receiver:
        rebinding = poster(["127.0.0.1"], ["10.0.0.1"])
        url = f"http://hooks.example:{receiver.port}/"

        assert (await post(rebinding, url)).status == 200
        with pytest.raises(AddressRefused):
            await post(rebinding, url)


async def test_an_address_that_takes_no_connection_gives_way_to_the_next() -> None:
    async with receiving(host="127.0.0.1") as receiver:
        both = Poster(poster(["127.0.0.9", "127.0.0.1"]).resolve, (ip_network("127.0.0.0/8"),))

        assert (await post(both, f"http://hooks.example:{receiver.port}/")).address == "127.0.0.1"


async def test_a_name_that_leads_nowhere_is_named() -> None:
    with pytest.raises(NoAnswer, match=r"nowhere.invalid leads to no address"):
        await post(poster(), "http://nowhere.invalid/")
    with pytest.raises(NoAnswer, match=r"leads to no address"):
        await post(poster([]), "http://hooks.example/")


async def test_a_name_server_that_hangs_is_given_up_at_the_deadline() -> None:
    async def resolve(_host: str, _port: int) -> Sequence[str]:
        await anyio.sleep_forever()
        raise AssertionError

    with pytest.raises(NoAnswer, match=r"hooks.example did not answer within 0.1 s"):
        await post(Poster(resolve, deadline=0.1), "http://hooks.example/")


async def test_the_request_is_one_post_with_headers_and_body() -> None:
    async with receiving() as receiver:
        await post(poster(), receiver.url)

    [request] = receiver.requests
    assert request.line == "POST /hook HTTP/1.1"
    assert request.body == BODY
    assert request.headers | {"connection": "close", "webhook-id": "7"} == request.headers


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_is_not_followed(status: int) -> None:
    async with receiving() as elsewhere, receiving(answers(status, location=elsewhere.url)) as receiver:
        answer = await post(poster(), receiver.url)

        assert answer.status == status
        assert elsewhere.connections == 0


async def test_no_variable_of_the_environment_leads_to_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with receiving() as proxy, receiving() as receiver:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)

        assert (await post(poster(), receiver.url)).status == 200
        assert proxy.connections == 0


ENDLESS = sends(b"HTTP/1.1 200 OK\r\n\r\n", again=b"x" * 65536)
DRIPPING = sends(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n", again=b"x", pause=0.05)


async def test_an_endless_body_is_cut_by_name_and_the_status_counts() -> None:
    async with receiving(ENDLESS) as receiver:
        answer = await post(poster(), receiver.url)

    assert (answer.status, answer.cut) == (200, "the answer was longer than 64 KiB")


async def test_a_dripping_body_is_cut_by_name_and_the_status_counts() -> None:
    async with receiving(DRIPPING) as receiver:
        answer = await post(poster(), receiver.url)

    assert (answer.status, answer.cut) == (200, "the answer took longer than 2 s after its status")


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (hangs, "did not answer within 0.3 s"),
        (sends(b"HTTP/1.1 200 O", again=b"K", pause=0.05), "did not answer within 0.3 s"),
        (sends(b"HTTP/1.1 200 OK\r\n", again=b"x: y\r\n", pause=0.05), "did not answer within 0.3 s"),
        (sends(b"HTTP/1.1 200 OK\r\n", again=b"x: y\r\n" * 1000), "does not answer in HTTP"),
        (sends(b"", again=b"HTTP/1.1 100 Continue\r\n\r\n" * 1000), "sent 64 KiB without a status"),
        (sends(b"SSH-2.0-SECRET\r\n\r\n"), "does not answer in HTTP"),
        (sends(b"HTTP/1.1 999999999 OK\r\n\r\n"), "does not answer in HTTP"),
        (sends(b"HTTP/1.1 101 Switching\r\n\r\n"), "does not answer in HTTP"),
        (sends(b""), "closed the connection without an answer"),
    ],
)
async def test_a_receiver_that_does_not_answer_in_time_or_in_http_is_given_up(answer: object, why: str) -> None:
    async with receiving(answer) as receiver:  # type: ignore[arg-type]
        with pytest.raises(NoAnswer, match=f"^127.0.0.1 {why}") as given_up:
            await post(poster(deadline=0.3), receiver.url)

    assert "SECRET" not in str(given_up.value)


async def test_a_receiver_that_is_not_there_is_named() -> None:
    async with receiving() as receiver:
        pass

    with pytest.raises(NoAnswer) as missed:
        await post(poster(), f"http://localhost:{receiver.port}/")
    assert str(missed.value) == f"localhost takes no connection on port {receiver.port}: Connection refused."


async def test_the_reason_shows_no_address_though_the_error_of_the_library_does() -> None:
    """asyncio says: Connect call failed ('127.0.0.1', 1)."""
    with pytest.raises(NoAnswer) as missed:
        await post(poster(["127.0.0.1"]), "http://hooks.example:1/")
    assert "127.0.0.1" not in str(missed.value)


async def test_an_answer_that_is_broken_off_after_the_status_counts() -> None:
    async with receiving(sends(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")) as receiver:
        assert (await post(poster(), receiver.url)).status == 200


async def test_a_receiver_that_answers_without_reading_is_heard() -> None:
    async def refuse(stream: SocketStream) -> None:
        async with stream:
            await stream.send(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
            await anyio.sleep_forever()

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as serving:
        serving.start_soon(listener.serve, refuse)
        url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/"
        answer = await poster(deadline=5).post(target_of(url), [], b"x" * 60_000)
        serving.cancel_scope.cancel()

    assert answer.status == 413


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    folder: Path = tmp_path_factory.mktemp("authority")
    return Authority.made_in(folder)


async def test_tls_is_verified_against_the_name_and_not_the_address(authority: Authority) -> None:
    async with receiving(tls=authority.server("hooks.example")) as receiver:
        url = f"https://hooks.example:{receiver.port}/"
        answer = await post(poster(["127.0.0.1"], tls=authority.client), url)

        assert (answer.status, answer.address) == (200, "127.0.0.1")
        with pytest.raises(NoAnswer, match=r"TLS with other.example failed: Hostname mismatch"):
            await post(poster(["127.0.0.1"], tls=authority.client), f"https://other.example:{receiver.port}/")
        with pytest.raises(NoAnswer, match=r"TLS with hooks.example failed: .*certificate"):
            await post(poster(["127.0.0.1"]), url)
    assert len(receiver.requests) == 1


async def test_a_receiver_without_tls_is_named() -> None:
    async with receiving(hangs) as receiver:
        with pytest.raises(NoAnswer, match=r"did not answer within 0.3 s"):
            await post(poster(deadline=0.3), f"https://127.0.0.1:{receiver.port}/")


async def test_a_url_that_cannot_be_used_never_reaches_the_resolver() -> None:
    with pytest.raises(UrlRefused):
        await post(poster(["127.0.0.1"]), "ftp://hooks.example/")
