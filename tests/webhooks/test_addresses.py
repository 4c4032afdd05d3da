"""Which addresses a webhook may be sent to."""

from __future__ import annotations

from ipaddress import ip_network

import pytest

from pushq.webhooks.addresses import refusal

PUBLIC = (
    "1.1.1.1", "9.9.9.9", "100.63.255.255", "100.128.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0",
    "198.17.255.255", "198.20.0.0", "223.255.255.255", "2606:4700:4700::1111", "2a00:1450:4001:800::200e",
    "::ffff:9.9.9.9", "64:ff9b::9.9.9.9",
)  # fmt: skip

SPECIAL = (
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.127.255.255", "100.100.100.200", "127.0.0.1",
    "127.255.255.254", "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255", "192.0.0.192",
    "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1",
    "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "::", "::1", "::7f00:1", "::ffff:127.0.0.1",
    "::ffff:169.254.169.254", "::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1",
    "100::1", "2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:db8::1", "2002:7f00:1::1", "2002:909:909::1",
    "3fff::1", "5f00::1", "fc00::1", "fd00:ec2::254", "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "200::1",
    "4000::1", "8000::1", "f000::1",
)  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is_taken(address: str) -> None:
    assert refusal(address) is None


@pytest.mark.parametrize("address", SPECIAL)
def test_a_special_address_is_refused(address: str) -> None:
    assert refusal(address)


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("64:ff9b::a9fe:a9fe", "link-local, as the metadata of clouds"),
        ("2002:7f00:1::1", "a tunnel of 6to4"),
        ("2001::1", "a tunnel of Teredo"),
        ("4000::1", "not public"),
    ],
)
def test_a_refusal_names_the_kind_and_neither_address_nor_network(address: str, sentence: str) -> None:
    assert refusal(address) == sentence


def test_an_operator_may_allow_networks() -> None:
    allowed = [ip_network("10.1.0.0/16"), ip_network("fd00::/8"), ip_network("127.0.0.1/32")]

    assert refusal("10.1.2.3", allowed) is None
    assert refusal("::ffff:10.1.2.3", allowed) is None
    assert refusal("fd00::1", allowed) is None
    assert refusal("10.2.0.1", allowed) == "private"
    assert refusal("127.0.0.2", allowed) == "loopback"
    assert refusal("::1", allowed) == "loopback"
