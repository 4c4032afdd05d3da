"""Which addresses a webhook may be sent to: every public one, and those that the operator allows.

The list is our own, made from IANA's registries of special-purpose addresses (of 2025), because `is_global` of Python's
`ipaddress` differs from one release to the next. Of IPv6, only 2000::/3 is public; everything else is refused, named or
not.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_SPECIAL: tuple[tuple[Network, str], ...] = tuple(
    (ip_network(block), name)
    for block, name in (
        ("0.0.0.0/8", "this host"),
        ("10.0.0.0/8", "private"),
        ("100.64.0.0/10", "shared by customers of a carrier"),
        ("127.0.0.0/8", "loopback"),
        ("168.63.129.16/32", "the platform of Azure"),  # a public address, which leads to the host of the machine
        ("169.254.0.0/16", "link-local, as the metadata of clouds"),
        ("172.16.0.0/12", "private"),
        ("192.0.0.0/24", "for protocols of the IETF"),
        ("192.0.2.0/24", "for documentation"),
        ("192.31.196.0/24", "for AS112"),
        ("192.52.193.0/24", "for multicast tunnels"),
        ("192.88.99.0/24", "for relays of 6to4"),
        ("192.168.0.0/16", "private"),
        ("192.175.48.0/24", "for AS112"),
        ("198.18.0.0/15", "for benchmarks"),
        ("198.51.100.0/24", "for documentation"),
        ("203.0.113.0/24", "for documentation"),
        ("224.0.0.0/4", "multicast"),
        ("240.0.0.0/4", "reserved"),
        ("::/128", "this host"),
        ("::1/128", "loopback"),
        ("::/96", "an IPv4 address in IPv6, as of old"),
        ("64:ff9b:1::/48", "for translation inside of a network"),
        ("100::/64", "discarded"),
        ("2001::/32", "a tunnel of Teredo"),
        ("2001::/23", "for protocols of the IETF"),
        ("2001:db8::/32", "for documentation"),
        ("2002::/16", "a tunnel of 6to4"),
        ("2620:4f:8000::/48", "for AS112"),
        ("3fff::/20", "for documentation"),
        ("5f00::/16", "for routing by segments"),
        ("fc00::/7", "private"),
        ("fe80::/10", "link-local"),
        ("fec0::/10", "private, as of old"),
        ("ff00::/8", "multicast"),
    )
)

_PUBLIC_IPV6 = IPv6Network("2000::/3")
_TRANSLATED = (IPv6Network("::ffff:0:0/96"), IPv6Network("64:ff9b::/96"))
"""Blocks whose addresses lead to the IPv4 address in their last 32 bits: mapped addresses, and NAT64."""


def refusal(address: str, allowed: Sequence[Network] = ()) -> str | None:
    """The kind of an address to which no webhook may be sent, "loopback" for example, or None.

    Neither address nor block: a tenant who reads the error of a delivery learns little of the network.
    """
    meant = _meant(ip_address(address.partition("%")[0]))
    if any(meant in network for network in allowed):
        return None
    for block, name in _SPECIAL:
        if meant in block:
            return name
    if isinstance(meant, IPv6Address) and meant not in _PUBLIC_IPV6:
        return "not public"
    return None


def _meant(address: Address) -> Address:
    """The address to which packets go in the end."""
    if isinstance(address, IPv6Address) and any(address in block for block in _TRANSLATED):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address
