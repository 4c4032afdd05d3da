"""The parts of a receiver's URL, read strictly: what is unclear is refused, not guessed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address
from urllib.parse import urlsplit

from pushq.errors import UrlRefused

LONGEST_URL = 2000
LONGEST_PART = 63
"""Characters between two dots of a host's name, as DNS has it."""
_PORTS = {"http": 80, "https": 443}
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,253}")


@dataclass(frozen=True, slots=True)
class Target:
    """host: a name or an address, without brackets. path: with the query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def is_encrypted(self) -> bool:
        return self.scheme == "https"

    @property
    def authority(self) -> str:
        """The value of the header Host."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


def target_of(url: str) -> Target:
    """Raises UrlRefused, with a sentence that does not show the URL, which may hold a secret."""
    if len(url) > LONGEST_URL:
        raise UrlRefused(f"The URL has {len(url):,} characters; at most {LONGEST_URL:,} are taken.")
    if not re.fullmatch(r"[!-\[\]-~]+", url):
        raise UrlRefused(
            "The URL has a character that URLs do not have: a space, a backslash, or one beyond ASCII; write names as "
            "xn--…, and other characters as %XX."
        )
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UrlRefused(f"The URL cannot be read: {_without_values(error)}.") from None
    if parts.scheme not in _PORTS:
        raise UrlRefused("The URL must begin with http:// or https://.")
    if "@" in parts.netloc:
        raise UrlRefused("The URL has a user or a password, which are not sent; webhooks are signed instead.")
    if port == 0:
        raise UrlRefused("The URL has port 0, which nobody listens on.")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, _host(parts.hostname or ""), port or _PORTS[parts.scheme], path)


def _host(host: str) -> str:
    if ":" in host:
        try:
            return str(IPv6Address(host))  # a zone, as in fe80::1%eth0, is kept, and refused with its address
        except AddressValueError:
            raise UrlRefused("The URL has an IPv6 address that cannot be read.") from None
    if not _NAME.fullmatch(host):
        raise UrlRefused("The URL has no host, or a host with characters other than letters, digits, '.', '-' and '_'.")
    if not all(0 < len(part) <= LONGEST_PART for part in host.removesuffix(".").split(".")):
        raise UrlRefused(
            f"The URL has a host with a part that is empty, or longer than {LONGEST_PART} characters; dots divide the "
            "parts."
        )
    return host


def _without_values(error: ValueError) -> str:
    """The message up to the part that quotes the URL."""
    return re.split(r"[:'\"]| as ", str(error))[0].strip().rstrip(".") or "it is no URL"
